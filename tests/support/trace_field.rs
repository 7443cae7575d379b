//! The one `Received` field that a relay puts on top of a message: finding its end, so that the rest can be compared.

/// Splits what arrived into the relay's own field and all that follows it.
///
/// The field ends with the line that holds its date, behind the semicolon. Its end cannot be found by unfolding, since
/// a message may itself begin with a space.
///
/// # Panics
/// If the content does not begin with such a field.
pub fn split(arrived: &[u8]) -> (&[u8], &[u8]) {
    let end = end(arrived).filter(|end| memchr::memmem::find(&arrived[..*end], b"(BackupMx)").is_some());
    arrived
        .split_at(end.unwrap_or_else(|| panic!("no Received field of a relay stands on top of: {}", start_of(arrived))))
}

/// The same with the field of any server.
///
/// # Panics
/// If the content does not begin with such a field.
pub fn split_any(arrived: &[u8]) -> (&[u8], &[u8]) {
    let end = end(arrived).unwrap_or_else(|| panic!("no Received field stands on top of: {}", start_of(arrived)));
    arrived.split_at(end)
}

fn start_of(arrived: &[u8]) -> impl std::fmt::Display {
    arrived[..arrived.len().min(400)].escape_ascii()
}

fn end(arrived: &[u8]) -> Option<usize> {
    if !arrived.starts_with(b"Received: ") {
        return None;
    }
    let mut at = memchr::memchr(b';', arrived)?;
    loop {
        let line_end = at + memchr::memmem::find(&arrived[at..], b"\r\n")? + 2;
        let date = &arrived[at + 1..line_end];
        if date.iter().any(u8::is_ascii_digit) {
            return Some(line_end);
        }
        // The date may stand on a line of its own.
        at = line_end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_ends_with_its_date_even_if_the_message_begins_with_a_space() {
        for (field, rest) in [
            (
                "Received: from a ([1.2.3.4])\r\n\tby b (BackupMx) with ESMTP id X; Sun, 22 Nov 2026\r\n",
                "Subject: a\r\n",
            ),
            ("Received: from a\r\n\tby b (BackupMx) with ESMTP id X;\r\n\tSun, 22 Nov 2026\r\n", " b; c\r\n"),
            ("Received: by b (BackupMx) ; 1\r\n", ""),
        ] {
            assert_eq!(split(format!("{field}{rest}").as_bytes()), (field.as_bytes(), rest.as_bytes()));
        }
    }

    #[test]
    #[should_panic(expected = "no Received field")]
    fn a_message_of_which_the_field_is_missing_is_noticed() {
        split(b"Received: from a by b (Postfix); Sun, 22 Nov 2026\r\n\r\n");
    }
}
