//! `spool check`: reads everything that is kept and says what is damaged, what that means, and what helps.

use std::io::{self, Write};

use backupmx_relay_api::status::Account;

use super::{progress::Progress, words};
use crate::{
    mail::id::MessageId,
    spool::{
        disk::Disk,
        index::Counts,
        large::{self, LargeReader},
        log, quarantine,
        segment::{DamageKind, SEGMENT_BYTES_MAX},
        survey::{self, Damage, Orphan, Reading, RecoveryError, Survey, Watch, survey},
    },
};

/// What a check found.
pub struct Found {
    segments: usize,
    segment_bytes: u64,
    records: u64,
    large_files: u64,
    large_bytes: u64,
    counts: Counts,
    account: Account,
    /// Mail may be lost. A sentence each, with the cure.
    damages: Vec<String>,
    /// No mail is lost.
    notes: Vec<String>,
}

/// Reads every record and every large file.
pub fn look(disk: &dyn Disk, progress: &mut Progress) -> Result<Found, RecoveryError> {
    let mut reader = Reader { disk, progress, bad_footers: Vec::new() };
    let survey = survey(disk, Reading::Everything, &mut reader)?;
    let bad_footers = reader.bad_footers;
    let bad_large = read_large(disk, &survey, progress);
    let (mut damages, mut notes) = sentences(&survey);
    damages.extend(bad_large.iter().map(|(id, cause)| large_is_bad(*id, cause)));
    for Orphan { id, is_closed } in &survey.orphans {
        let is_whole = || large::accepted_of_whole(disk, *id).map(|found| found.is_some());
        notes.push(orphan(*id, *is_closed, &survey, is_whole));
    }
    notes.extend(bad_footers.iter().map(|path| {
        format!("{path} is not what its segment says; no mail depends on it, the next start reads the segment instead")
    }));
    let index = &survey.state.index;
    Ok(Found {
        segments: survey.state.segments.len() + survey.headerless.len(),
        segment_bytes: survey.state.segments.values().map(|segment| segment.length).sum(),
        records: survey.records,
        large_files: index.iter().filter(|(_, entry)| entry.is_large).count() as u64,
        large_bytes: index.large_bytes(),
        counts: index.counts(),
        account: index.account(),
        damages,
        notes,
    })
}

impl Found {
    /// Whether no mail is damaged or lost.
    pub fn is_good(&self) -> bool {
        self.damages.is_empty()
    }

    /// For people.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { segments, segment_bytes, records, large_files, large_bytes, counts, account, damages, notes } = self;
        let Counts { messages, bytes, held, oldest_ms: _ } = *counts;
        let Account { accepted, passed, delivered, bounced, expired, deleted, moved, damaged, queued } = *account;
        writeln!(out, "{:16}{segments}, {}", "segments", words::size(*segment_bytes))?;
        writeln!(out, "{:16}{records}", "records")?;
        writeln!(out, "{:16}{large_files}, {}", "large files", words::size(*large_bytes))?;
        writeln!(out, "{:16}{messages}, {}", "open messages", words::size(bytes))?;
        writeln!(out, "{:16}{held}\n\nrecipients", "  held")?;
        let ends = [
            ("accepted", accepted),
            ("passed", passed),
            ("delivered", delivered),
            ("bounced", bounced),
            ("expired", expired),
            ("deleted", deleted),
            ("moved", moved),
            ("damaged", damaged),
            ("queued", queued),
        ];
        ends.iter().try_for_each(|(name, count)| writeln!(out, "  {name:14}{count}"))?;
        writeln!(out, "  {:14}{}\n", "difference", account.difference())?;
        damages.iter().try_for_each(|sentence| writeln!(out, "DAMAGE: {sentence}"))?;
        notes.iter().try_for_each(|sentence| writeln!(out, "note: {sentence}"))?;
        match damages.len() {
            0 => writeln!(out, "good: every record and every large file is as it was written"),
            count => writeln!(out, "not good: {count} times DAMAGE, above"),
        }
    }
}

/// Follows the survey, and compares footers while it goes.
struct Reader<'a> {
    disk: &'a dyn Disk,
    progress: &'a mut Progress,
    bad_footers: Vec<String>,
}

impl Watch for Reader<'_> {
    fn segment(&mut self, read: usize, of: usize) {
        self.progress.told("segments", read, of);
    }

    fn footer(&mut self, number: u64, bytes: Vec<u8>) {
        let (path, mut there) = (log::footer_path(number), Vec::new());
        let Ok(file) = self.disk.open(&path) else { return }; // the segment that was written last has none
        let is_same =
            survey::read(&*file, SEGMENT_BYTES_MAX, &mut there).is_ok_and(|length| there[..length] == bytes[..]);
        if !is_same {
            self.bad_footers.push(path);
        }
    }
}

/// Open messages of which the file is missing or does not check.
fn read_large(disk: &dyn Disk, survey: &Survey, progress: &mut Progress) -> Vec<(MessageId, io::Error)> {
    let large: Vec<_> = survey.state.index.iter().filter(|(_, entry)| entry.is_large).map(|(id, _)| id).collect();
    let read = |id: MessageId| {
        let mut reader = LargeReader::open(disk, id)?;
        while reader.next_piece()?.is_some() {}
        Ok(())
    };
    let mut bad = Vec::new();
    for (done, id) in large.iter().enumerate() {
        progress.told("large files", done, large.len());
        bad.extend(read(*id).err().map(|cause| (*id, cause)));
    }
    bad
}

fn large_is_bad(id: MessageId, cause: &io::Error) -> String {
    let path = large::path(id);
    let state = match cause.kind() {
        io::ErrorKind::NotFound => "is missing".to_owned(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => "is not as it was written".to_owned(),
        _ => format!("cannot be read ({cause})"),
    };
    format!(
        "{path} {state}, so message {id} cannot be delivered: put the file back from a backup, or start the relay, which \
         holds the message, and ask its sender to send again (`spool show {id}`)"
    )
}

/// What the survey tells: damages, and notes.
fn sentences(survey: &Survey) -> (Vec<String>, Vec<String>) {
    let (mut damages, mut notes) = (Vec::new(), Vec::new());
    for damage in &survey.damages {
        let of_its_kind = if damage.kind == DamageKind::Rot { &mut damages } else { &mut notes };
        of_its_kind.push(part(damage, &survey.quarantined));
    }
    damages.extend(survey.headerless.iter().map(|(number, bytes)| {
        format!(
            "segment {number}: neither copy of its header checks, so none of its {bytes} bytes can be read: put {} back \
             from a backup, or start the relay, which moves it to {}/ and goes on without it",
            log::path(*number),
            quarantine::FOLDER
        )
    }));
    damages.extend(survey.missing.iter().map(|number| {
        let path = log::path(*number);
        format!("segment {number} is missing, and what it held: put {path} back from a backup before the relay starts")
    }));
    damages.extend(earlier(survey));
    let cause = if survey.is_damaged() { Cause::Damage } else { Cause::Unknown };
    damages.extend(account(survey.state.index.account().difference(), cause));
    let torn = survey.quarantined.iter().filter(|name| name.ends_with(".torn")).count();
    if torn > 0 {
        notes.push(format!("{torn} copies of torn ends are in {}/; they may be removed", quarantine::FOLDER));
    }
    (damages, notes)
}

fn part(Damage { segment, range, kind }: &Damage, quarantined: &[String]) -> String {
    let (place, name) = (quarantine::describe(*segment, range, *kind), quarantine::name(*segment, range, *kind));
    let folder = quarantine::FOLDER;
    match (quarantined.contains(&name), kind) {
        (true, DamageKind::Rot) => format!("{place}: look at its copy, {folder}/{name}"),
        (true, DamageKind::Tear) => format!("{place}: its copy is {folder}/{name}; nothing need be done"),
        (false, DamageKind::Rot) => format!(
            "{place}: put {} back from a backup, or start the relay, which copies the part to {folder}/ and goes on \
             behind it",
            log::path(*segment)
        ),
        (false, DamageKind::Tear) => {
            format!("{place}: the next start copies it to {folder}/ and goes on; nothing need be done")
        }
    }
}

/// Rot of which only the copies are left, since its segment is gone.
fn earlier(survey: &Survey) -> impl Iterator<Item = String> {
    let told = |damage: &Damage| quarantine::name(damage.segment, &damage.range, damage.kind);
    let told: Vec<_> = survey.damages.iter().map(told).collect();
    let left = survey.quarantined.iter().filter(move |name| name.ends_with(".rot") && !told.contains(name));
    left.map(|name| {
        let path = format!("{}/{}", quarantine::FOLDER, crate::foreign::shown(name));
        format!("{path}: damage was found earlier: look at it, and remove it when nothing in it is missed")
    })
}

/// What may have put the account off.
#[derive(Clone, Copy)]
enum Cause {
    /// Damage that the next start finds, too.
    Damage,
    /// Nothing that was found.
    Unknown,
}

fn account(difference: i64, cause: Cause) -> Option<String> {
    let count = difference.unsigned_abs();
    let what = match difference {
        0 => return None,
        1.. => format!("the account is off by {difference}: what became of {count} recipients is not known"),
        _ => format!("the account is off by {difference}: {count} recipients are open that it does not know of"),
    };
    let next = match (cause, difference) {
        (Cause::Damage, 1..) => "the damage took their records, and the next start counts them as damaged",
        (Cause::Damage, _) => {
            "the damage took what became of them, so the next start counts them as accepted, and delivers them, again"
        }
        (Cause::Unknown, _) => "nothing was found that explains it: please report it as a defect, with a copy of log/",
    };
    Some(format!("{what}; {next}"))
}

/// A file in `large/` that belongs to no open message.
fn orphan(id: MessageId, is_closed: bool, survey: &Survey, is_whole: impl Fn() -> io::Result<bool>) -> String {
    let path = large::path(id);
    if is_closed {
        return format!("{path} is left from a message that is closed; the next start removes it");
    }
    if !survey.is_damaged() {
        return format!("no record speaks of {path}, so nobody was told that it is kept; the next start removes it");
    }
    let what = match is_whole() {
        Ok(true) => "perhaps because of the damage; the next start holds it as a message".to_owned(),
        Ok(false) => "and it is not whole; a person may look at it and remove it".to_owned(),
        Err(cause) => format!("and it cannot be read now ({cause}); leave it there"),
    };
    format!("no record speaks of {path}, {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(kind: DamageKind) -> Damage {
        Damage { segment: 3, range: 4608..4708, kind }
    }

    #[test]
    fn rot_is_damage_and_a_tear_is_a_note_and_both_name_their_segment_and_the_cure() {
        let survey = Survey { damages: vec![damage(DamageKind::Rot), damage(DamageKind::Tear)], ..Survey::default() };
        let (damages, notes) = sentences(&survey);
        assert_eq!((damages.len(), notes.len()), (1, 1), "{damages:?} {notes:?}");
        assert!(damages[0].starts_with("segment 3: 100 damaged bytes at 4608"), "{damages:?}");
        assert!(damages[0].contains("log/0000000000000003.seg") && damages[0].contains("quarantine"), "{damages:?}");
        assert!(notes[0].starts_with("segment 3:") && notes[0].contains("nothing need be done"), "{notes:?}");
    }

    #[test]
    fn a_copy_in_quarantine_is_told_once_and_stays_damage_when_its_segment_is_gone() {
        let quarantined = vec![quarantine::name(3, &(4608..4708), DamageKind::Rot)];
        let with_segment =
            Survey { damages: vec![damage(DamageKind::Rot)], quarantined: quarantined.clone(), ..Survey::default() };
        for survey in [with_segment, Survey { quarantined: quarantined.clone(), ..Survey::default() }] {
            let (damages, notes) = sentences(&survey);
            assert_eq!((damages.len(), notes.len()), (1, 0), "{damages:?} {notes:?}");
            assert!(damages[0].contains(&format!("quarantine/{}", quarantined[0])), "{damages:?}");
        }
    }

    #[test]
    fn lost_segments_and_an_account_that_is_off_are_damage() {
        let survey = Survey { headerless: vec![(1, 9000)], missing: vec![2], ..Survey::default() };
        let (damages, _) = sentences(&survey);
        assert!(damages[0].contains("segment 1: ") && damages[0].contains("9000"), "{damages:?}");
        assert!(damages[1].contains("segment 2 is missing"), "{damages:?}");
        assert_eq!(account(0, Cause::Damage), None);
        for (difference, cause, words) in [
            (2, Cause::Damage, "counts them as damaged"),
            (-2, Cause::Damage, "delivers them, again"),
            (-2, Cause::Unknown, "defect"),
        ] {
            let sentence = account(difference, cause).unwrap();
            assert!(sentence.contains(words) && sentence.contains("off by"), "{sentence}");
        }
    }

    #[test]
    fn what_a_start_would_do_with_a_file_that_no_record_speaks_of_is_told() {
        let (good, id) = (Survey::default(), MessageId::new());
        let torn = Survey { damages: vec![damage(DamageKind::Tear)], ..Survey::default() };
        let missing = Survey { missing: vec![2], ..Survey::default() };
        for (is_closed, survey, is_whole, words) in [
            (true, &torn, true, "is closed"),
            (false, &good, true, "removes it"),
            (false, &missing, true, "holds it"),
            (false, &torn, true, "holds it"),
            (false, &torn, false, "not whole"),
        ] {
            let sentence = orphan(id, is_closed, survey, || Ok(is_whole));
            assert!(sentence.contains(words) && sentence.contains(&large::path(id)), "{sentence}");
        }
    }
}
