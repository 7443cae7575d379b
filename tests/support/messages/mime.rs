//! MIME and signatures: structures that other servers have repaired, and what must arrive as it is to be valid.

use super::{Message, lines, message, with_body};

pub(super) fn all() -> Vec<Message> {
    [signed(), boundaries(), parts(), reports()].concat()
}

fn signed() -> Vec<Message> {
    let base64 = "MIIGKwYJKoZIhvcNAQcCoIIGHDCCBhgCAQExDzANBglghkgBZQMEAgEFADALBgkqhkiG9w0BBwGg";
    vec![
        message(
            "multipart_signed",
            "MIME-Version: 1.0\r\nContent-Type: multipart/signed; micalg=\"pgp-sha256\";\r\n \
             protocol=\"application/pgp-signature\"; boundary=\"=-b\"\r\n\r\nPreamble \r\n--=-b\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
             signed text, trailing blanks count:  \t\r\n.\r\nGrüße\r\n\r\n--=-b\r\n\
             Content-Type: application/pgp-signature\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\n\r\niQEzBAEB\r\n=abcd\r\n\
             -----END PGP SIGNATURE-----\r\n--=-b--\r\nEpilogue\r\n",
        ),
        message(
            "smime_signed",
            lines([
                "MIME-Version: 1.0",
                "Content-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; micalg=sha-256;",
                " boundary=\"----B0UNDARY\"",
                "",
                "This is an S/MIME signed message",
                "",
                "------B0UNDARY",
                "Content-Type: text/plain ",
                "",
                "The CRLF before the boundary is no part of what is signed. ",
                "",
                "",
                "------B0UNDARY",
                "Content-Type: application/x-pkcs7-signature; name=\"smime.p7s\"",
                "Content-Transfer-Encoding: base64",
                "",
                base64,
                "==",
                "",
                "------B0UNDARY--",
                "",
            ]),
        ),
        message(
            "smime_encrypted",
            lines([
                "MIME-Version: 1.0",
                "Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=\"smime.p7m\"",
                "Content-Transfer-Encoding: base64",
                "",
            ]) + &format!("{base64}\r\n").repeat(200),
        ),
        message(
            "dkim_signed",
            "DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=client.example; s=s1;\r\n\th=From:To:Subject;\r\n\t \
             bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n\tb=dzdVyOfAKCdLXdJOc9G2q8LoXSlEniSbav+yuU4zGeer\r\n\t \
             uruD00lszZVoG4ZHRNiYzR\r\nFrom:  Ann  <ann@client.example> \r\nTo: bob@example.org\r\nSubject:  two  blanks\t\r\n\
             \r\nsimple canonicalization forgives nothing \r\n\r\n\r\n",
        ),
        message(
            "dkim_signed_with_blanks_everywhere",
            "DKIM-Signature:v=1;a=ed25519-sha256 ; c=simple ;\t\r\n  d=client.example;s=s1; l=4;  \r\n\t h=from : to :\r\n \t\
             subject:from; \t \r\n bh= ab cd\t=;\r\n b=\r\n\tab\r\n\tcd ==  \r\nfrom:ann@client.example\t \r\nSUBJECT :x\r\n\r\n\
             1234 what is behind the length that was signed\t\r\n \r\n\t\r\n\r\n",
        ),
        message(
            "arc_sets",
            (1..=3)
                .rev()
                .map(|i| {
                    lines([
                        &format!(
                            "ARC-Seal: i={i}; a=rsa-sha256; t=1795348800; cv={}; d=hop{i}.example; s=s;",
                            if i == 1 { "none" } else { "pass" }
                        ),
                        "        b=dzdVyOfAKCdLXdJOc9G2q8LoXSlEniSbav+yuU4zGeer ",
                        "         uruD00lszZVoG4ZHRNiYzR==",
                        &format!(
                            "ARC-Message-Signature: i={i}; a=rsa-sha256; c=relaxed/relaxed; d=hop{i}.example; s=s;"
                        ),
                        "\th=from:to:subject;\tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=",
                        &format!("ARC-Authentication-Results: i={i}; hop{i}.example; spf=fail"),
                        "\tsmtp.mailfrom=ann@client.example; dkim=pass (a (nested) comment) ",
                    ])
                })
                .collect::<String>()
                + "From: ann@client.example\r\nSubject: x\r\n\r\nbody \r\n",
        ),
        with_body(
            "pgp_signed_in_the_body",
            lines([
                "-----BEGIN PGP SIGNED MESSAGE-----",
                "Hash: SHA512",
                "",
                "- -----BEGIN a line that was escaped",
                "- From the start of a line",
                "-- ",
                "trailing blanks \t",
                "-----BEGIN PGP SIGNATURE-----",
                "",
                "iQEzBAEBCgAdFiEE",
                "=abcd",
                "-----END PGP SIGNATURE-----",
            ]),
        ),
        message(
            "autocrypt_and_protected_headers",
            lines([
                "Autocrypt: addr=ann@client.example; keydata=",
                " mDMEXEcE6RYJKwYBBAHaRw8BAQdArjWwk3FAqyiFbFBKT4TzXcVBqPTB3gmzlC/Ub7O1u120",
                "Subject: ...",
                "Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=b; protected-headers=\"v1\"",
                "",
                "--b",
                "Content-Type: application/pgp-encrypted",
                "",
                "Version: 1",
                "",
                "--b",
                "Content-Type: application/octet-stream",
                "",
                "-----BEGIN PGP MESSAGE-----",
                "",
                "hF4D",
                "-----END PGP MESSAGE-----",
                "--b--",
            ]),
        ),
    ]
}

/// A multipart message with this `boundary` parameter and this body.
fn multipart(name: &str, parameter: &str, body: &str) -> Message {
    message(name, format!("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary={parameter}\r\n\r\n{body}"))
}

fn boundaries() -> Vec<Message> {
    let longest = "b".repeat(70); // RFC 2046 section 5.1.1
    vec![
        multipart("boundary_that_begins_another", "a", "--a\r\n\r\n1\r\n--ab\r\n\r\n2\r\n--ab--\r\n--a--\r\n"),
        multipart("boundary_followed_by_blanks", "b", "--b \t \r\n\r\n1\r\n--b\t\r\n\r\n2\r\n--b-- \r\n"),
        multipart(
            "boundary_of_odd_characters",
            "\"'()+_,-./:=? b\"",
            "--'()+_,-./:=? b\r\n\r\n1\r\n--'()+_,-./:=? b--\r\n",
        ),
        multipart("boundary_of_70_characters", &longest, &format!("--{longest}\r\n\r\n1\r\n--{longest}--\r\n")),
        multipart("boundary_that_is_empty", "\"\"", "--\r\n\r\n1\r\n--\r\n\r\n2\r\n----\r\n"),
        multipart("boundary_of_dots", ".", "--.\r\n\r\n.\r\n--.\r\n\r\n..\r\n--.--\r\n.\r\n"),
        multipart("boundary_that_is_missing", "b", "no part at all\r\n"),
        multipart("boundary_that_never_closes", "b", "--b\r\n\r\n1\r\n--b\r\n\r\n2\r\n"),
        multipart("boundary_that_closes_twice", "b", "--b\r\n\r\n1\r\n--b--\r\n--b\r\n\r\n2\r\n--b--\r\n"),
        multipart(
            "boundary_of_the_outer_in_the_inner",
            "b",
            "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n1\r\n--b--\r\n--b--\r\n",
        ),
        multipart(
            "boundary_without_quotes_and_with_a_comment",
            "b (x); boundary=c",
            "--b\r\n\r\n1\r\n--b--\r\n--c\r\n\r\n2\r\n--c--\r\n",
        ),
        multipart(
            "boundary_in_preamble_and_epilogue",
            "b",
            "-- b\r\n--b\r\n\r\n1\r\n--b--\r\n\r\n--b\r\nepilogue \r\n\r\n",
        ),
        multipart("empty_parts", "b", "--b\r\n--b\r\n\r\n--b\r\n\r\n\r\n--b--\r\n"),
        multipart(
            "parts_without_an_empty_line",
            "b",
            "--b\r\nContent-Type: text/plain\r\n--b\r\nbody, or a field?\r\n--b--\r\n",
        ),
        nested(100),
    ]
}

/// Deeper than some servers follow: they refuse, or take the rest for text.
fn nested(depth: usize) -> Message {
    let open = |level: usize| format!("--b{level}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n", level + 1);
    let opened: String = (0..depth).map(open).collect();
    let closed: String = (0..depth).rev().map(|level| format!("--b{level}--\r\n")).collect();
    multipart(&format!("parts_nested_{depth}_deep"), "b0", &format!("{opened}--b{depth}\r\n\r\ninnermost\r\n{closed}"))
}

fn parts() -> Vec<Message> {
    let calendar = [
        "BEGIN:VCALENDAR",
        "METHOD:REQUEST",
        "BEGIN:VEVENT",
        "UID:040000008200E00074C5B7101A82E00800000000",
        "ATTENDEE;CN=\"Bob\";RSVP=TRUE:mailto:bob@example.or",
        " g",
        "DESCRIPTION:a line is folded at any byte\\, here within a character: Gr",
        " \u{fc}\u{df}e\\n.",
        "\t.",
        "X-ALT-DESC;FMTTYPE=text/html: ",
        "END:VEVENT",
        "END:VCALENDAR",
    ];
    vec![
        message(
            "calendar_part",
            lines([
                "Content-Type: text/calendar; charset=utf-8; method=REQUEST",
                "Content-Class: urn:content-classes:calendarmessage",
                "",
            ]) + &lines(calendar),
        ),
        message(
            "names_by_rfc_2231",
            lines([
                "Content-Type: application/x-stuff;",
                " name*0*=utf-8'de'Gr%C3%BC;",
                "\tname*1*=%C3%9Fe;",
                " name*2=\" .txt\"",
                "Content-Disposition: attachment; filename*=iso-8859-1''Gr%FC%DFe%2Etxt; filename=\"=?utf-8?Q?Gr=C3=BC=C3=9Fe?=.txt\"",
                "",
                "body",
            ]),
        ),
        message(
            "names_outside_ascii",
            b"Content-Disposition: attachment; filename=\"Gr\xfc\xdfe \\\"\\\\.txt\"; x=\r\n\r\nbody\r\n",
        ),
        message(
            "names_that_are_paths",
            "Content-Disposition: attachment; filename=\"..\\..\\con.txt.exe \"\r\n\r\nbody\r\n",
        ),
        message(
            "unknown_transfer_encoding",
            "Content-Transfer-Encoding: x-unknown (comment)\r\nContent-Transfer-Encoding: 8BIT\r\n\r\n\u{fc}\r\n",
        ),
        message(
            "binary_transfer_encoding",
            [
                b"Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n".as_slice(),
                b"\x89PNG\r\n\x1a\0\0\0\0\xff\xff\0\r\n",
            ]
            .concat(),
        ),
        message(
            "seven_bit_declared_but_not_kept",
            "MIME-Version: 1.0\r\nContent-Transfer-Encoding: 7bit\r\n\r\nGrüße\r\n",
        ),
        message(
            "odd_mime_versions",
            "MIME-Version: (a) 1 (b) . (c) 0\r\nMIME-Version: 2.0\r\nContent-Type:\r\n\r\nbody\r\n",
        ),
        message(
            "odd_types",
            "Content-Type: text\r\nContent-Type: ;charset\r\nContent-Type: text/plain; charset=\"x\" \";\r\n\r\nbody\r\n",
        ),
        message(
            "message_in_parts",
            "Content-Type: message/partial; id=\"x@client.example\"; number=2; total=3\r\n\r\nthe middle of something\r\n",
        ),
        message(
            "message_elsewhere",
            "Content-Type: message/external-body; access-type=local-file; name=\"/etc/hostname\"\r\n\r\nContent-Type: text/plain\r\n\r\n\r\n",
        ),
        message(
            "nested_message",
            "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n\r\n\
             Received: by inner.example; Sun, 22 Nov 2026 09:00:00 +0000\r\nSubject: inner\r\n\r\n.inner body\r\n--x--\r\n",
        ),
        message(
            "tnef",
            "Content-Type: application/ms-tnef; name=\"winmail.dat\"\r\nContent-Transfer-Encoding: base64\r\n\r\neJ8+IggAAQ==\r\n",
        ),
        message(
            "html_on_one_line",
            format!("Content-Type: text/html\r\n\r\n{}\r\n", "<p>no line ends in here</p>".repeat(3000)),
        ),
        message(
            "format_flowed",
            "Content-Type: text/plain; format=flowed; delsp=yes\r\n\r\n> quoted \r\n>> more \r\n flowed \r\n  From here\r\n-- \r\nAnn\r\n",
        ),
    ]
}

fn reports() -> Vec<Message> {
    vec![
        message(
            "delivery_report",
            lines([
                "From: Mail Delivery System <MAILER-DAEMON@client.example>",
                "Auto-Submitted: auto-replied",
                "Content-Type: multipart/report; report-type=delivery-status; boundary=\"b/client.example\"",
                "",
                "--b/client.example",
                "Content-Type: message/delivery-status",
                "",
                "Reporting-MTA: dns; client.example",
                "",
                "Final-Recipient: rfc822; bob@example.org",
                "Action: failed",
                "Status: 5.0.0",
                "",
                "--b/client.example",
                "Content-Type: text/rfc822-headers",
                "",
                "Received: by client.example; Sun, 22 Nov 2026 09:00:00 +0000",
                "",
                "--b/client.example--",
            ]),
        ),
        message(
            "read_receipt",
            "Content-Type: multipart/report; report-type=disposition-notification; boundary=b\r\nDisposition-Notification-To: a@b\r\n\
             \r\n--b\r\nContent-Type: message/disposition-notification\r\n\r\n\
             Disposition: manual-action/MDN-sent-manually; displayed\r\n\r\n--b--\r\n",
        ),
    ]
}
