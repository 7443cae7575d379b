//! How long a start takes and how much memory it needs: each in a process of its own that did nothing before.

use std::{
    env,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use backupmx_relay::queue::{Queue, scheduler::Lane};
use backupmx_relay_api::config::{Delivery, WhenPrimaryUp};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};

use crate::{
    folder::{self, Folder},
    load::{self, Message},
    machine::number_of,
    progress::Progress,
    report::{Table, median, whole},
};

/// Messages and recipients of each.
const FULL: &[(u64, usize)] = &[(10_000, 1), (100_000, 1), (1_000_000, 1), (100_000, 10)];
const QUICK: &[(u64, usize)] = &[(10_000, 1), (100_000, 1), (100_000, 10)];
const CONTENT_BYTES: usize = 2 << 10;
/// Twice what a commit takes, so that the next is full when one is done.
const WRITERS: u64 = 512;
/// Starts after a good end, of which the middle one counts.
const STARTS: usize = 3;

/// All sizes, after each way to end.
pub fn measure(folder: &Folder, quick: bool) -> Table {
    let (mut rows, mut notes, mut of_one) = (Vec::new(), Vec::new(), Vec::new());
    for &(messages, recipients) in if quick { QUICK } else { FULL } {
        let path = folder.empty();
        let seconds = fill(&path, messages, recipients, false);
        let (many, per_second) = (whole(messages as f64), whole(messages as f64 / seconds));
        notes.push(format!("Kept {many} messages for {recipients} in {seconds:.1} s: {per_second} a second."));
        let starts: Vec<_> = (0..STARTS).map(|_| start(&path, messages, folder::warm)).collect();
        let warm = Start::median(&starts);
        let cold = start(&path, messages, folder::cool);
        folder.put_off(path);
        folder.clear();
        let path = folder.empty();
        fill(&path, messages, recipients, true);
        let killed = start(&path, messages, folder::warm);
        folder.put_off(path);
        folder.clear();
        for (ended, cache, start) in [("closed", "warm", &warm), ("closed", "cold", &cold), ("killed", "warm", &killed)]
        {
            let mut row = vec![many.clone(), recipients.to_string(), ended.to_owned(), cache.to_owned()];
            row.extend(start.cells());
            rows.push(row);
        }
        if recipients == 1 {
            of_one.push(warm);
        }
    }
    if let [.., fewer, more] = of_one.as_slice() {
        notes.push(more.beside(fewer));
    }
    Table {
        title: "Start",
        about: format!(
            "Messages of {CONTENT_BYTES} bytes that wait. Memory is resident memory in MiB: before, with the spool opened, with \
             the queue filled, and the most at any time. The last columns are time and memory for each message. Cold: \
             the kernel's page cache is dropped, the disk's own is not. Closed and warm: the median of {STARTS} starts."
        ),
        #[rustfmt::skip]
        columns: vec![
            "messages", "recipients", "ended", "cache", "open ms", "queue ms",
            "before", "opened", "filled", "peak", "us each", "bytes each",
        ],
        rows,
        notes,
    }
}

/// What one start took.
struct Start {
    messages: f64,
    open_ms: f64,
    queue_ms: f64,
    /// Memory before, opened, filled, and at most.
    memory_kib: [f64; 4],
}

impl Start {
    fn read(told: &Value) -> Self {
        let of = |key: &str| told[key].as_f64().expect("it tells");
        let memory_kib = ["before_kib", "opened_kib", "filled_kib", "peak_kib"].map(of);
        Self { messages: of("messages"), open_ms: of("open_ms"), queue_ms: of("queue_ms"), memory_kib }
    }

    fn median(starts: &[Self]) -> Self {
        let of = |figure: &dyn Fn(&Self) -> f64| median(starts.iter().map(figure));
        Self {
            messages: of(&|it| it.messages),
            open_ms: of(&|it| it.open_ms),
            queue_ms: of(&|it| it.queue_ms),
            memory_kib: [0, 1, 2, 3].map(|place| of(&|it| it.memory_kib[place])),
        }
    }

    fn us_each(&self) -> f64 {
        (self.open_ms + self.queue_ms) * 1e3 / self.messages
    }

    fn bytes_each(&self) -> f64 {
        let [before, _, filled, _] = self.memory_kib;
        (filled - before) * 1024.0 / self.messages
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![whole(self.open_ms), whole(self.queue_ms)];
        cells.extend(self.memory_kib.map(|kib| format!("{:.1}", kib / 1024.0)));
        cells.extend([format!("{:.2}", self.us_each()), whole(self.bytes_each())]);
        cells
    }

    /// Whether time and memory grow as the number of messages does.
    fn beside(&self, fewer: &Self) -> String {
        let (time, memory) = (self.us_each() / fewer.us_each(), self.bytes_each() / fewer.bytes_each());
        let (few, many) = (whole(fewer.messages), whole(self.messages));
        format!(
            "From {few} to {many} messages, one message's time is {time:.2} and its memory {memory:.2} of what it was."
        )
    }
}

/// Makes a spool with messages that wait, in a process that ends as told. Returns how long keeping them took.
fn fill(path: &Path, messages: u64, recipients: usize, kill: bool) -> f64 {
    let (messages, recipients) = (messages.to_string(), recipients.to_string());
    let mut child = again(&["fill", &messages, &recipients], path);
    let told = answer(&mut child);
    if kill {
        child.kill().expect("a process can be killed"); // it waits for this, or for standard input to end
    }
    drop(child.stdin.take());
    child.wait().expect("a process ends");
    told["seconds"].as_f64().expect("it tells")
}

/// Starts a process that opens the spool and tells what that took.
fn start(path: &Path, messages: u64, prepare: fn(&Path)) -> Start {
    prepare(path);
    let mut child = again(&["open"], path);
    let told = answer(&mut child);
    assert!(child.wait().expect("a process ends").success(), "a start failed");
    assert_eq!(told["messages"], messages, "all messages are found again");
    Start::read(&told)
}

/// This program once more, for one step.
fn again(step: &[&str], path: &Path) -> Child {
    let program = env::current_exe().expect("this program has a path");
    let child = Command::new(program).args(step).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    child.expect("this program can be started again")
}

fn answer(child: &mut Child) -> Value {
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is a pipe")).read_line(&mut line).expect("a pipe can be read");
    serde_json::from_str(&line).expect("the step ended well")
}

/// The step that makes a spool.
#[derive(clap::Args)]
pub struct Fill {
    messages: u64,
    recipients: usize,
    folder: PathBuf,
}

impl Fill {
    /// Tells when all is kept, and closes the spool when standard input ends: until then it can be killed.
    pub fn run(&self) {
        end_with_parent();
        let (spool, _) = load::open(load::disk(&self.folder));
        load::runtime().block_on(async {
            let begun = Instant::now();
            let (kept, message) = (Arc::new(AtomicU64::new(0)), Message::new(CONTENT_BYTES, self.recipients));
            let watching = tokio::spawn(watch(kept.clone(), self.messages));
            let keeper = spool.clone();
            let keep = load::each(WRITERS, self.messages, move |_| {
                let (spool, message, kept) = (keeper.clone(), message.clone(), kept.clone());
                async move {
                    message.keep(&spool).await;
                    kept.fetch_add(1, Ordering::Relaxed);
                }
            });
            keep.await;
            watching.abort();
            let _ = watching.await;
            println!("{}", json!({ "seconds": begun.elapsed().as_secs_f64() }));
            let _ = io::stdin().read_line(&mut String::new());
            spool.close().await;
        });
    }
}

/// Who is interrupted removes the folder, and must not leave a process that writes on.
fn end_with_parent() {
    set_parent_process_death_signal(Some(Signal::KILL)).expect("the kernel can do that");
}

async fn watch(kept: Arc<AtomicU64>, messages: u64) {
    let mut progress = Progress::new();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (kept, messages) = (kept.load(Ordering::Relaxed) as f64, messages as f64);
        progress.show(&format!("start: a spool with {} of {} messages ...", whole(kept), whole(messages)));
    }
}

/// The step that opens a spool.
#[derive(clap::Args)]
pub struct Open {
    folder: PathBuf,
}

impl Open {
    /// Opens it and fills a queue as the relay does, and tells what that took.
    pub fn run(&self) {
        end_with_parent();
        let memory_kib = |word| number_of("/proc/self/status", word);
        let before_kib = memory_kib("VmRSS:");
        let begun = Instant::now();
        let (spool, waiting) = load::open(load::disk(&self.folder));
        let opened = begun.elapsed();
        let opened_kib = memory_kib("VmRSS:");
        let (damages, _) = spool.damages();
        assert!(damages.is_empty(), "nothing was damaged: {damages:?}");
        let messages = waiting.len();
        let begun = Instant::now();
        let queue = Queue::new(&Delivery::default(), WhenPrimaryUp::Queue);
        waiting.into_iter().for_each(|(id, flow)| queue.spooled(id, flow, Lane::Backlog));
        let told = json!({
            "messages": messages,
            "open_ms": opened.as_secs_f64() * 1e3,
            "queue_ms": begun.elapsed().as_secs_f64() * 1e3,
            "before_kib": before_kib,
            "opened_kib": opened_kib,
            "filled_kib": memory_kib("VmRSS:"),
            "peak_kib": memory_kib("VmHWM:"),
        });
        assert_eq!(queue.waiting(), messages);
        println!("{told}");
        load::runtime().block_on(spool.close());
    }
}
