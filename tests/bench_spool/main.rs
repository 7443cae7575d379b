//! `make bench-spool`: measures the spool on a disk of this machine and prints what it found as tables.
//!
//! It judges nothing but the bytes written, for which there is a bound. It opens no port and needs no relay.

mod folder;
mod load;
mod progress;
mod report;
mod speed;
mod files;
mod written;
mod counting;
mod start;
mod machine;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

use folder::Folder;
use report::Table;

/// Measures the spool: its speed beside a file for each message, the bytes it writes, how it starts.
///
/// Takes some minutes. Give it a machine that does nothing else, and that did not remove much a moment ago: file systems
/// mounted with `discard` are busy with that for a while.
#[derive(Parser)]
#[command(name = "bench-spool")]
struct Cli {
    #[command(subcommand)]
    step: Option<Step>,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args)]
struct Options {
    /// Where to write: a folder is made in it, and removed at the end. It must lie on a real disk, the one that is to
    /// be measured, not on a tmpfs, where a sync costs nothing; and 6 GiB must be free (2 GiB with --quick).
    #[arg(long, value_name = "DIR", default_value = "target")]
    folder: PathBuf,
    /// A look in under a minute: one short round, and no spool with a million messages.
    #[arg(long)]
    quick: bool,
    /// Print Markdown, for docs/performance.md.
    #[arg(long)]
    markdown: bool,
    /// Measure only this. Give it again for another.
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Messages a second and latency, beside a file for each message.
    Speed,
    /// Bytes passed to the disk.
    Written,
    /// Time and memory of a start.
    Start,
}

/// What this program runs itself for, so that each start is measured in a process that did nothing before.
#[derive(Subcommand)]
enum Step {
    #[command(hide = true)]
    Fill(start::Fill),
    #[command(hide = true)]
    Open(start::Open),
}

fn main() -> ExitCode {
    let Cli { step, options } = Cli::parse();
    match step {
        Some(Step::Fill(fill)) => fill.run(),
        Some(Step::Open(open)) => open.run(),
        None => match Folder::make(&options.folder, if options.quick { 2 } else { 6 }) {
            Ok(folder) => measure(&folder, &options),
            Err(cause) => {
                eprintln!("bench-spool: folder {}: {cause}", options.folder.display());
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

fn measure(folder: &Folder, options: &Options) {
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let show = |table: Table| table.print(options.markdown);
    println!("{}\n", machine::line(folder.path()));
    if wanted(Part::Speed) {
        speed::measure(folder, options.quick).into_iter().for_each(show);
    }
    if wanted(Part::Written) {
        show(written::measure(folder));
    }
    if wanted(Part::Start) {
        show(start::measure(folder, options.quick));
    }
}
