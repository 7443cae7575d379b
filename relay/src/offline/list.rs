//! `spool list`: a line for each open message, oldest first.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Write},
};

use jiff::Timestamp;

use super::words;
use crate::{
    foreign::shown,
    mail::{address::Address, id::MessageId},
    spool::{
        disk::Disk,
        field::{self, State},
        footer::Line,
        index::Entry,
        record::Kind,
        search,
        survey::Survey,
    },
};

/// Their addresses are in memory at a time: some megabytes. A copy forward has put old messages into new segments, so
/// the segments that they stand in are read once for each of these.
const MESSAGES_AT_A_TIME: usize = 20_000;

/// What the index does not know of a message.
struct Row {
    received: Timestamp,
    reverse_path: String,
    is_wanted: bool,
}

/// Prints those of which an address contains `part`, in whatever case of letters; all if it is empty.
///
/// Fails if `out` does, and then only.
pub fn print(disk: &dyn Disk, survey: &Survey, part: &str, out: &mut dyn Write) -> io::Result<()> {
    let part = part.to_lowercase();
    writeln!(out, "{:26}  {:20}  {:7}  {:>10}  {:12}  REVERSE-PATH", "ID", "RECEIVED", "STATE", "SIZE", "OPEN")?;
    let mut all = survey.state.index.iter();
    loop {
        let some: Vec<_> = all.by_ref().take(MESSAGES_AT_A_TIME).collect();
        if some.is_empty() {
            return Ok(());
        }
        let rows = rows(disk, survey, &some, &part);
        for ((id, entry), row) in some.into_iter().zip(rows) {
            print_row(id, entry, row, &part, out)?;
        }
    }
}

/// `None` where the record can no longer be read.
fn rows(disk: &dyn Disk, survey: &Survey, of: &[(MessageId, &Entry)], part: &str) -> Vec<Option<Row>> {
    let place = |entry: &Entry| (entry.location.segment, entry.location.offset);
    let wanted: HashMap<_, _> = of.iter().enumerate().map(|(at, (_, entry))| (place(entry), at)).collect();
    let segments: BTreeSet<_> = of.iter().map(|(_, entry)| entry.location.segment).collect();
    let mut rows: Vec<_> = of.iter().map(|_| None).collect();
    for number in segments {
        let end = survey.state.segments.get(&number).map_or(0, |segment| segment.length);
        search::each_line(disk, number, end, &mut |line: &Line| {
            if line.kind == Kind::Accepted
                && let Some(at) = wanted.get(&(number, line.offset))
            {
                rows[*at] = row(line.fields, part);
            }
        });
    }
    rows
}

fn row(fields: &[u8], part: &str) -> Option<Row> {
    let contains = |address: &str| address.to_lowercase().contains(part);
    let is_wanted = part.is_empty() || field::addresses(fields).any(contains);
    let path = field::reverse_path(fields);
    let reverse_path = match path.map(Address::stored) {
        Some(Some(address)) => words::path(Some(&address)),
        Some(None) => format!("<{}>", shown(path.unwrap_or_default())),
        None => words::path(None),
    };
    Some(Row { received: field::at(fields)?, reverse_path, is_wanted })
}

fn print_row(id: MessageId, entry: &Entry, row: Option<Row>, part: &str, out: &mut dyn Write) -> io::Result<()> {
    let unreadable = || Row {
        received: Timestamp::from_millisecond(id.made_at_ms()).unwrap_or_default(),
        reverse_path: "its record cannot be read: see `spool check`".to_owned(),
        is_wanted: part.is_empty(),
    };
    let Row { received, reverse_path, is_wanted } = row.unwrap_or_else(unreadable);
    if !is_wanted {
        return Ok(());
    }
    let state = words::state(if entry.is_held() { State::Held } else { State::Waiting });
    let size = words::size(entry.content_bytes);
    let open = format!("{} of {}", entry.open().count(), entry.states().len());
    writeln!(out, "{id}  {received:.0}  {state:7}  {size:>10}  {open:12}  {reverse_path}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::field::tests::accepted;

    #[test]
    fn a_row_is_wanted_if_any_address_contains_the_part_in_whatever_case() {
        let mut accepted = accepted(MessageId::new(), 2);
        accepted.envelope.recipients[1] = Address::parse("Bob.Example@EXAMPLE.org").unwrap().into();
        for (part, is_wanted) in
            [("", true), ("bob.ex", true), ("example.net", true), ("u0@", true), ("u1@", false), ("bobex", false)]
        {
            let row = row(&accepted.encode(), part).unwrap();
            assert_eq!(row.is_wanted, is_wanted, "{part:?}");
            assert_eq!(row.reverse_path, r#"<"a b"@example.net>"#);
        }
        accepted.envelope.reverse_path = None;
        let row = row(&accepted.encode(), "").unwrap();
        assert_eq!((&*row.reverse_path, row.received), ("<>", accepted.envelope.received_at));
    }
}
