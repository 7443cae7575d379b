//! Bodies that look like something else: commands, mailboxes, other protocols, what filters look for.

use super::{Message, lines, message, with_body};

pub(super) fn all() -> Vec<Message> {
    [protocols(), mailboxes(), programs()].concat()
}

fn protocols() -> Vec<Message> {
    vec![
        with_body(
            "looks_like_commands",
            "QUIT\r\nRSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nfake\r\n.\r\nQUIT\r\n",
        ),
        message("begins_like_commands", "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nfake\r\n.\r\n"),
        with_body("looks_like_bdat", "BDAT 4 LAST\r\na\r\n.\r\nBDAT 0 LAST\r\nBDAT 99999999\r\n"),
        with_body("looks_like_replies", "250 2.0.0 ok\r\n354 go on\r\n421 4.3.2 closing\r\n"),
        message("begins_like_http", "GET / HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\n\r\nhello\r\n"),
        message("begins_like_tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n"),
        message(
            "begins_like_the_proxy_protocol",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\r\nSubject: x\r\n\r\nbody\r\n",
        ),
        message("begins_like_starttls", "STARTTLS\r\n\x16\x03\x01\0\r\n"),
        with_body("modem_commands", "+++\r\nATH0\r\n+++ATH0\r\nNO CARRIER\r\n"),
        with_body("commands_of_other_mailers", "~.\r\n~r /etc/hostname\r\n~q\r\n.\r\n:q!\r\n\x03\r\n"),
    ]
}

fn mailboxes() -> Vec<Message> {
    let from = "From ann@client.example Sun Nov 22 12:00:00 2026";
    vec![
        with_body("looks_like_mbox", format!("{from}\r\nFrom here on\r\n>From there\r\n")),
        with_body(
            "mbox_quotes_of_every_depth",
            format!(
                "\r\n{from}\r\n\r\n>{from}\r\n\r\n>>{from}\r\n\r\n {from}\r\n\r\n.{from}\r\nFrom\r\nFrom:\r\nFrom\t x\r\nFROM x\r\n"
            ),
        ),
        message("begins_like_mbox", format!("{from}\r\nSubject: x\r\n\r\nbody\r\n")),
        message("begins_like_quoted_mbox", format!(">{from}\r\nSubject: x\r\n\r\nbody\r\n")),
        message(
            "begins_like_uucp",
            "From ann Sun Nov 22 12:00:00 2026 remote from client\r\n>From x\r\nSubject: x\r\n\r\nx\r\n",
        ),
        with_body("looks_like_mmdf", "\x01\x01\x01\x01\r\nbody\r\n\x01\x01\x01\x01\r\n"),
        with_body("looks_like_babyl", "\x1f\x0c\r\n1,,\r\n*** EOOH ***\r\n\x1f\r\n"),
        with_body("looks_like_rnews", "#! rnews 5\r\nabc\r\n#! cunbatch\r\n"),
        with_body(
            "looks_like_bsmtp",
            "HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n..\r\n.\r\nQUIT\r\n//\r\n/*EOF\r\n",
        ),
        message("begins_like_our_spool", b"BMXSEG\0\0\0\0\0\0BMXR\0BMXLARGEBMXFOOT\0\r\n"),
    ]
}

fn programs() -> Vec<Message> {
    vec![
        // Outlook took what follows "begin" and two blanks for an attachment.
        with_body("begin_and_two_blanks", "begin  at the beginning\r\nend\r\n"),
        // A message that every filter is to refuse: what filters say is the primary's to decide.
        with_body("gtube", "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n"),
        message(
            "carries_a_field_like_ours",
            "Received: from a ([1.2.3.4]) by elsewhere.example (BackupMx) with ESMTP id 0;\r\n Sun, 22 Nov 2026 \
             12:00:00 +0000\r\nSubject: another relay was here\r\n\r\nbody\r\n",
        ),
        message(
            "continues_a_field_like_ours",
            " for <x@y>;\r\n\tSun, 22 Nov 2026 12:00:00 +0000\r\nReceived: x;\r\n 1\r\n\r\nbody\r\n",
        ),
        message(
            "orders_for_a_list_server",
            lines(["Subject: unsubscribe", "Approved: secret", "Control: cancel <x@y>", "", "unsubscribe list", "end"]),
        ),
    ]
}
