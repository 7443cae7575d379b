//! `backupmx-relay spool ...`: looks into the folder of a relay that is stopped, and never changes anything in it.

pub mod progress;
pub mod words;
pub mod check;
pub mod list;
pub mod show;
pub mod export;

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use self::progress::Progress;
use crate::{
    cli::SpoolCommand,
    mail::id::MessageId,
    spool::{
        ReadError,
        disk::RealDisk,
        folder::{self, LookError},
        history::{self, Event},
        survey::{Reading, RecoveryError, Survey, Watch, survey},
    },
};

/// Why a tool cannot do what it was asked for. Each message ends with the cure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder may not be looked into.
    #[error("data folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: LookError,
    },
    /// A file in it cannot be read, or is a newer program's.
    #[error("data folder {}: {source}{}", path.display(), cure(source))]
    Read {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: RecoveryError,
    },
    /// The log says nothing of this message.
    #[error(
        "the spool knows no message {0}: it was never here, or it is closed and its part of the log is gone; `spool list` \
         shows the open ones"
    )]
    Unknown(MessageId),
    /// The message is known, but not to be had.
    #[error("message {id}: {source}; `spool show {id}` tells what is known of it, `spool check` what is damaged")]
    Message {
        /// Which.
        id: MessageId,
        /// Why.
        source: ReadError,
    },
    /// The message is closed, and the record with its content has gone with its segment.
    #[error("message {0} is closed, and its content has left the log; `spool show {0}` tells what is known of it")]
    Gone(MessageId),
    /// What was to be made cannot be made.
    #[error("write {}: {source}; name another place, with room, that this user may write to", path.display())]
    Write {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was to be made is there. Nothing is overwritten.
    #[error("{} is there already, and nothing is overwritten; name another file or an empty folder", .0.display())]
    Exists(PathBuf),
    /// What was to be made would be in the data folder.
    #[error("{} is in the data folder, where only the relay writes; name another place", .0.display())]
    Inside(PathBuf),
    /// Some messages were left out.
    #[error("{0} damaged messages were not exported; `spool check` tells what is damaged")]
    LeftOut(u64),
    /// Standard output takes nothing.
    #[error("write to standard output: {0}; look whether its disk is full")]
    Stdout(#[source] io::Error),
}

/// Where a disk fails, the relay could not start either.
fn cure(source: &RecoveryError) -> &'static str {
    match source {
        RecoveryError::Io { .. } => {
            "; look as the user of its relay or as root; if the disk fails, copy the folder first"
        }
        RecoveryError::Newer { .. } => "",
    }
}

impl Error {
    /// The program's exit code: 3 where the folder is to blame.
    pub fn code(&self) -> u8 {
        match self {
            Self::Folder { .. } | Self::Read { .. } => 3,
            Self::Unknown(_)
            | Self::Message { .. }
            | Self::Gone(_)
            | Self::Write { .. }
            | Self::Exists(_)
            | Self::Inside(_)
            | Self::LeftOut(_)
            | Self::Stdout(_) => 1,
        }
    }
}

/// Does what was asked for in the folder `data`. False if something was found damaged.
pub fn run(command: &SpoolCommand, data: &Path) -> Result<bool, Error> {
    let _lock = folder::look(data).map_err(|source| Error::Folder { path: data.to_owned(), source })?;
    let unreadable = |source| Error::Read { path: data.to_owned(), source };
    let disk = RealDisk::new(data);
    let mut progress = Progress::on_stderr();
    let mut out = BufWriter::new(io::stdout().lock());
    if let SpoolCommand::Check = command {
        let found = check::look(&disk, &mut progress).map_err(unreadable)?;
        progress.end();
        until_nobody_listens(found.print(&mut out).and_then(|()| out.flush()))?;
        return Ok(found.is_good());
    }
    let survey = survey(&disk, Reading::Footers, &mut Segments(&mut progress)).map_err(unreadable)?;
    if survey.has_lost_parts() {
        progress.say("parts of the log are lost, so there may have been more than this; `spool check` tells which");
    }
    match command {
        SpoolCommand::Check => {}
        SpoolCommand::List { query } => {
            progress.end();
            let part = query.as_deref().unwrap_or_default();
            until_nobody_listens(list::print(&disk, &survey, part, &mut out).and_then(|()| out.flush()))?;
        }
        SpoolCommand::Show { id } => {
            let events = read_history(&disk, &survey, *id, &mut progress).map_err(unreadable)?;
            progress.end();
            if events.is_empty() {
                return Err(Error::Unknown(*id));
            }
            let is_open = survey.state.index.get(*id).is_some();
            until_nobody_listens(show::print(*id, is_open, &events, &mut out).and_then(|()| out.flush()))?;
        }
        SpoolCommand::Export { all: Some(to), .. } => export::all(&disk, &survey, data, to, &mut progress)?,
        SpoolCommand::Export { id: Some(id), output, .. } => {
            let events = read_history(&disk, &survey, *id, &mut progress).map_err(unreadable)?;
            progress.end();
            export::one(&disk, &survey, *id, &events, data, output.as_deref(), &mut out)?;
        }
        SpoolCommand::Export { id: None, all: None, .. } => {} // the command line does not allow it
    }
    Ok(true)
}

fn read_history(
    disk: &RealDisk,
    survey: &Survey,
    id: MessageId,
    progress: &mut Progress,
) -> Result<Vec<Event>, RecoveryError> {
    let mut read = |done, of| progress.told("segments", done, of);
    let events = history::history(disk, &survey.state.segments, id, &mut read);
    events.map_err(|source| RecoveryError::Io { step: format!("read the records of {id}"), source })
}

/// Whoever has seen enough, as `head` has, closes the pipe: no failure of ours.
fn until_nobody_listens(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => Err(Error::Stdout(cause)),
        _ => Ok(()),
    }
}

/// Tells how many segments are read.
struct Segments<'a>(&'a mut Progress);

impl Watch for Segments<'_> {
    fn segment(&mut self, read: usize, of: usize) {
        self.0.told("segments", read, of);
    }
}
