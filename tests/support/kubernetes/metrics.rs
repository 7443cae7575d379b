//! Prometheus' text format, as far as a test needs it. No I/O.

/// The sum of all samples of a metric that have these labels, whatever others they have.
pub(super) fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        // No value of the labels that tests ask for has a comma in it.
        let has = |(key, value): &(&str, &str)| found.split(',').any(|label| label == format!("{key}=\"{value}\""));
        labels.iter().all(has).then(|| value.parse::<f64>().ok()).flatten()
    };
    text.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn samples_with_the_asked_labels_are_summed_up() {
        let text = "# TYPE a counter\na{verb=\"GET\",code=\"200\"} 3\na{verb=\"GET\",code=\"404\"} 4\na{verb=\"PUT\"} 10\nab 100\nb 7\n";
        for (name, labels, expected) in [
            ("a", &[("verb", "GET")][..], 7.0),
            ("a", &[("code", "404"), ("verb", "GET")], 4.0),
            ("a", &[], 17.0),
            ("a", &[("verb", "T")], 0.0),
            ("b", &[], 7.0),
        ] {
            assert_eq!(sum(text, name, labels), expected, "{name} {labels:?}");
        }
    }
}
