//! Foreign text made fit for logs and the status: escaped and cut. No I/O.

/// What a person reads at most of one foreign text.
const SHOWN_BYTES_MAX: usize = 300;

/// Printable ASCII stays, all else is escaped; a long text is cut and marked.
pub fn shown(text: impl AsRef<[u8]>) -> String {
    let bytes = text.as_ref();
    let mut shown =
        bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii().to_string().replace("\\\"", "\"").replace("\\'", "'");
    if bytes.len() > SHOWN_BYTES_MAX {
        shown.push_str("[...]");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_reach_a_log_and_length_is_bounded() {
        assert_eq!(shown("a@b\r\n\x1b[31m \"q\""), r#"a@b\r\n\x1b[31m "q""#);
        assert!(shown("x".repeat(1_000_000)).len() <= 310);
    }
}
