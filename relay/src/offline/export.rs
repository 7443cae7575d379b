//! `spool export`: messages as their senders sent them, to standard output or into files that did not exist before.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Error, progress::Progress, until_nobody_listens, words};
use crate::{
    mail::{
        envelope::{Envelope, Offers, Recipient},
        id::MessageId,
    },
    spool::{
        Content, ReadError,
        disk::Disk,
        field::{Accepted, State},
        history::{self, Event},
        index::{Entry, Location},
        read_accepted,
        survey::Survey,
    },
};

/// One message, `to` a file or standard output. `events`: its history.
pub fn one(
    disk: &dyn Disk,
    survey: &Survey,
    id: MessageId,
    events: &[Event],
    data: &Path,
    to: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    if events.is_empty() {
        return Err(Error::Unknown(id));
    }
    let (_, newest) = history::newest(events).ok_or(Error::Gone(id))?;
    let unreadable = |source| Error::Message { id, source };
    let (_, mut content) = read(disk, survey, newest.place).map_err(unreadable)?;
    let Some(to) = to else {
        return match copy(&mut content, out) {
            Err(Broken::Read(cause)) => Err(unreadable(cause)),
            Err(Broken::Write(cause)) => until_nobody_listens(Err(cause)),
            Ok(()) => until_nobody_listens(out.flush()),
        };
    };
    refuse_inside(to, data)?;
    let file = write_file(to, |file| copy(&mut content, file)).map_err(|broken| broken.at(to, unreadable))?;
    file.sync_all().map_err(|source| Error::Write { path: to.to_owned(), source })
}

/// Each open message into the folder `to`: `ID.eml`, and `ID.json` with its envelope. What is damaged is told and left out.
pub fn all(disk: &dyn Disk, survey: &Survey, data: &Path, to: &Path, progress: &mut Progress) -> Result<(), Error> {
    refuse_inside(to, data)?;
    let cannot = |source| Error::Write { path: to.to_owned(), source };
    if !to.is_dir() {
        DirBuilder::new().mode(0o700).recursive(true).create(to).map_err(cannot)?;
    }
    let index = &survey.state.index;
    let (of, mut left_out) = (index.counts().messages as usize, 0);
    for (done, (id, entry)) in index.iter().enumerate() {
        progress.told("messages", done, of);
        match write_message(disk, survey, (id, entry), to) {
            Err(Error::Message { id, source }) => {
                left_out += 1;
                progress.say(&format!("message {id}: {source}; not exported"));
            }
            written => written?,
        }
    }
    progress.end();
    // One sync for all: what was exported may be the only copy soon.
    let sync = File::open(to).and_then(|folder| Ok(rustix::fs::syncfs(&folder)?));
    sync.map_err(cannot)?;
    if left_out > 0 { Err(Error::LeftOut(left_out)) } else { Ok(()) }
}

fn write_message(disk: &dyn Disk, survey: &Survey, (id, entry): (MessageId, &Entry), to: &Path) -> Result<(), Error> {
    let unreadable = |source| Error::Message { id, source };
    let (accepted, mut content) = read(disk, survey, entry.location).map_err(unreadable)?;
    let mail = to.join(format!("{id}.eml"));
    write_file(&mail, |file| copy(&mut content, file)).map_err(|broken| broken.at(&mail, unreadable))?;
    let envelope = to.join(format!("{id}.json"));
    let text = format!("{:#}\n", describe(&accepted, entry.states()));
    write_file(&envelope, |file| file.write_all(text.as_bytes()).map_err(Broken::Write))
        .map_err(|broken| broken.at(&envelope, unreadable))?;
    Ok(())
}

/// What it takes to send the message again by hand. The null reverse-path is an empty text, as in `MAIL FROM:<>`.
fn describe(accepted: &Accepted, states: &[State]) -> Value {
    let Accepted { envelope, trace, line_end_added, large_bytes: _, standing: _ } = accepted;
    let Envelope { id, received_at, client, helo, reverse_path, recipients, .. } = envelope;
    let recipient = |(recipient, state): (&Recipient, &State)| {
        let parameters = recipient.parameters(Offers::ALL);
        json!({
            "address": recipient.address.as_str(),
            "parameters": parameters.trim_start(),
            "state": words::state(*state),
        })
    };
    json!({
        "id": id.to_string(),
        "received": received_at.to_string(),
        "client": client.to_string(),
        "helo": helo,
        "protocol": envelope.with(),
        "parameters": envelope.parameters(Offers::ALL).trim_start(),
        "lineEndAdded": line_end_added,
        "reversePath": reverse_path.as_ref().map_or("", |path| path.as_str()),
        "recipients": recipients.iter().zip(states).map(recipient).collect::<Vec<_>>(),
        "trace": String::from_utf8_lossy(trace),
    })
}

fn read(disk: &dyn Disk, survey: &Survey, place: Location) -> Result<(Accepted, Content), ReadError> {
    let segment = survey.state.segments.get(&place.segment).ok_or(ReadError::Damaged)?;
    read_accepted(disk, place, segment.key)
}

/// On which side a copy broke off.
enum Broken {
    Read(ReadError),
    Write(io::Error),
}

impl Broken {
    fn at(self, path: &Path, unreadable: impl FnOnce(ReadError) -> Error) -> Error {
        match self {
            Self::Read(cause) => unreadable(cause),
            Self::Write(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
            Self::Write(source) => Error::Write { path: path.to_owned(), source },
        }
    }
}

fn copy(content: &mut Content, to: &mut dyn Write) -> Result<(), Broken> {
    let damaged = |cause: io::Error| match cause.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Broken::Read(ReadError::Damaged),
        _ => Broken::Read(ReadError::Io(cause)),
    };
    while let Some(piece) = content.next_piece().map_err(damaged)? {
        to.write_all(&piece).map_err(Broken::Write)?;
    }
    Ok(())
}

/// Makes a file for its owner alone. One that could not be filled is removed again.
fn write_file(path: &Path, fill: impl FnOnce(&mut File) -> Result<(), Broken>) -> Result<File, Broken> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = made.map_err(Broken::Write)?;
    match fill(&mut file) {
        Ok(()) => Ok(file),
        Err(broken) => {
            let _ = fs::remove_file(path); // the message tells more than a second failure would
            Err(broken)
        }
    }
}

/// The folder is looked at, and nothing in it is changed: not by a slip either.
fn refuse_inside(path: &Path, data: &Path) -> Result<(), Error> {
    let is_inside = data.canonicalize().is_ok_and(|data| nearest(path).starts_with(data));
    if is_inside { Err(Error::Inside(path.to_owned())) } else { Ok(()) }
}

/// The nearest part of a path that is there.
fn nearest(path: &Path) -> PathBuf {
    let here = |part: &Path| if part.as_os_str().is_empty() { PathBuf::from(".") } else { part.to_owned() };
    path.ancestors().find_map(|part| here(part).canonicalize().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mail::envelope::Notify, spool::field::tests::accepted};

    #[test]
    fn the_envelope_is_written_as_it_came() {
        let mut accepted = accepted(MessageId::from_bytes([1; 16]), 2);
        accepted.envelope.recipients[1].notify = Some(Notify { success: false, failure: false, delay: false });
        let expected = json!({
            "id": "01040G2081040G2081040G2081",
            "received": "2026-11-22T14:53:47.123Z",
            "client": "2001:db8::1",
            "helo": "mail.example.net",
            "protocol": "ESMTP",
            "parameters": "BODY=8BITMIME",
            "lineEndAdded": false,
            "reversePath": "\"a b\"@example.net",
            "recipients": [
                {"address": "u0@example.org", "parameters": "", "state": "ended"},
                {"address": "u1@example.org", "parameters": "NOTIFY=NEVER", "state": "held"},
            ],
            "trace": "Received: x\r\n",
        });
        assert_eq!(describe(&accepted, &[State::Ended, State::Held]), expected);
        accepted.envelope.reverse_path = None;
        assert_eq!(describe(&accepted, &[])["reversePath"], "");
    }

    #[test]
    fn what_is_inside_the_data_folder_is_noticed_also_before_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        for (path, is_inside) in
            [("data", true), ("data/new/folder", true), ("data/../data/x", true), ("data2", false), ("", false)]
        {
            assert_eq!(refuse_inside(&folder.path().join(path), &data).is_err(), is_inside, "{path:?}");
        }
    }
}
