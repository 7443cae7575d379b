//! Messages a second and how long each takes, in the spool and in a file for each, by turns.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::{
    files::Files,
    folder::Folder,
    load::{self, Message},
    progress::Progress,
    report::{Table, kib, median, whole},
};

const WRITERS: [u64; 4] = [1, 16, 64, 256];
const CONTENT_BYTES: [usize; 3] = [1 << 10, 8 << 10, 64 << 10];
/// The one size with which messages are delivered, too.
const DELIVERED_BYTES: [usize; 1] = [8 << 10];
/// Rounds, and how long one lasts: 96 of them stay below two minutes, with all that is made and removed between.
const FULL: (usize, Duration) = (3, Duration::from_millis(500));
const QUICK: (usize, Duration) = (1, Duration::from_millis(250));

/// What happens to a message before its writer takes the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It is kept, as in an outage.
    Kept,
    /// It is delivered at once, as in a queue through which mail passes.
    Delivered,
}

/// What one round found.
#[derive(Clone, Copy)]
struct Speed {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// All sizes with all numbers of writers, and one size again with deliveries.
pub fn measure(folder: &Folder, quick: bool) -> [Table; 2] {
    let (rounds, time) = if quick { QUICK } else { FULL };
    let table = |title, sizes, life, end| Table {
        title,
        about: format!(
            "The spool beside a file for each message (write, fdatasync, rename, fsync of the folder{end}), by turns, medians \
             of {rounds} rounds of {time:?}. Latencies in milliseconds."
        ),
        #[rustfmt::skip]
        columns: vec!["content", "writers", "spool/s", "p50", "p99", "files/s", "p50", "p99", "ratio"],
        rows: rows(folder, sizes, life, rounds, time),
        notes: Vec::new(),
    };
    [
        table("Messages a second, until each is on stable storage", &CONTENT_BYTES, Life::Kept, ""),
        table("Messages a second, kept and delivered", &DELIVERED_BYTES, Life::Delivered, ", unlink"),
    ]
}

fn rows(folder: &Folder, sizes: &[usize], life: Life, rounds: usize, time: Duration) -> Vec<Vec<String>> {
    let runtime = load::runtime();
    let mut progress = Progress::new();
    let mut rows = Vec::new();
    for &content_bytes in sizes {
        for writers in WRITERS {
            progress.show(&format!("speed: {writers} writers, {} ...", kib(content_bytes)));
            let message = Message::new(content_bytes, 1);
            let (mut spool, mut files) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                spool.push(runtime.block_on(of_spool(folder, writers, time, &message, life)));
                files.push(runtime.block_on(of_files(folder, writers, time, &message, life)));
            }
            let (spool, files) = (Speed::median(&spool), Speed::median(&files));
            let mut row = vec![kib(content_bytes), writers.to_string()];
            row.extend(spool.cells());
            row.extend(files.cells());
            row.push(format!("{:.1}", spool.per_second / files.per_second));
            rows.push(row);
        }
        folder.clear();
    }
    rows
}

async fn of_spool(folder: &Folder, writers: u64, time: Duration, message: &Message, life: Life) -> Speed {
    let path = folder.empty();
    let (spool, _) = load::open(load::disk(&path));
    let (keeper, message) = (spool.clone(), message.clone());
    let act = move || {
        let (spool, message) = (keeper.clone(), message.clone());
        async move {
            let id = message.keep(&spool).await;
            if life == Life::Delivered {
                load::deliver(&spool, id).await;
            }
        }
    };
    let speed = drive(writers, time, act).await;
    spool.close().await;
    folder.put_off(path);
    speed
}

async fn of_files(folder: &Folder, writers: u64, time: Duration, message: &Message, life: Life) -> Speed {
    let path = folder.empty();
    let (files, message) = (Files::new(&path), message.clone());
    let act = move || {
        let (files, message) = (files.clone(), message.clone());
        async move {
            let id = files.keep(message.bytes()).await;
            if life == Life::Delivered {
                files.remove(id).await;
            }
        }
    };
    let speed = drive(writers, time, act).await;
    folder.put_off(path);
    speed
}

/// Each writer does one message after the other, until time is up.
async fn drive<F>(writers: u64, time: Duration, act: impl Fn() -> F + Clone + Send + 'static) -> Speed
where
    F: Future<Output = ()> + Send,
{
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let act = act.clone();
        tasks.spawn(async move {
            let mut waits = Vec::new();
            while begun.elapsed() < time {
                let asked = Instant::now();
                act().await;
                waits.push(asked.elapsed());
            }
            waits
        });
    }
    let mut waits: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let per_second = waits.len() as f64 / begun.elapsed().as_secs_f64();
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    Speed { per_second, p50_ms: at(0.5), p99_ms: at(0.99) }
}

impl Speed {
    fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure));
        Self { per_second: of(|it| it.per_second), p50_ms: of(|it| it.p50_ms), p99_ms: of(|it| it.p99_ms) }
    }

    fn cells(self) -> [String; 3] {
        [whole(self.per_second), format!("{:.2}", self.p50_ms), format!("{:.2}", self.p99_ms)]
    }
}
