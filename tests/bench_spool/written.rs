//! Bytes passed to the disk for a message that comes in and is delivered: the spool keeps a bound.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    counting::{Count, CountingDisk},
    folder::Folder,
    load::{self, Message},
    progress::Progress,
    report::{Table, kib, whole},
};

const MESSAGES: u64 = 20_000;
const WRITERS: u64 = 64;
const CONTENT_BYTES: usize = 8 << 10;

/// When messages are delivered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivered {
    /// Each as soon as it is kept.
    AtOnce,
    /// All have come in before, as in an outage.
    Later,
}

/// Both ways.
pub fn measure(folder: &Folder) -> Table {
    let mut progress = Progress::new();
    let bound = CONTENT_BYTES as f64 * 1.1 + 512.0;
    let mut rows = Vec::new();
    for (name, delivered) in [("at once", Delivered::AtOnce), ("after all came", Delivered::Later)] {
        progress.show(&format!("written: {MESSAGES} messages, delivered {name} ..."));
        let count = count(folder, delivered);
        let each = |counter: &AtomicU64| counter.load(Relaxed) as f64 / MESSAGES as f64;
        let bytes = each(&count.bytes);
        rows.push(vec![
            name.to_owned(),
            whole(bytes),
            whole(bound),
            if bytes <= bound { "yes" } else { "NO" }.to_owned(),
            format!("{:.3}", each(&count.writes)),
            format!("{:.3}", each(&count.syncs)),
            count.reserve_bytes.load(Relaxed).to_string(),
        ]);
    }
    Table {
        title: "Bytes written for a message",
        about: format!(
            "{} of content for one recipient, accepted and delivered; {MESSAGES} messages, {WRITERS} writers, from the first \
             segment to the spool's close. The bound is 1.1 times the content and 512 bytes. The reserve is written once.",
            kib(CONTENT_BYTES)
        ),
        columns: vec!["delivered", "bytes", "bound", "within", "writes", "syncs", "reserve, once"],
        rows,
        notes: Vec::new(),
    }
}

fn count(folder: &Folder, delivered: Delivered) -> Arc<Count> {
    let path = folder.empty();
    let count = Arc::new(Count::default());
    let (spool, _) = load::open(Arc::new(CountingDisk { disk: load::disk(&path), count: count.clone() }));
    load::runtime().block_on(async {
        let (keeper, message) = (spool.clone(), Message::new(CONTENT_BYTES, 1));
        let ids = load::each(WRITERS, MESSAGES, move |_| {
            let (spool, message) = (keeper.clone(), message.clone());
            async move {
                let id = message.keep(&spool).await;
                if delivered == Delivered::AtOnce {
                    load::deliver(&spool, id).await;
                }
                id
            }
        });
        let ids: Arc<[_]> = ids.await.into();
        if delivered == Delivered::Later {
            let deliverer = spool.clone();
            let done = load::each(WRITERS, MESSAGES, move |number| {
                let (spool, id) = (deliverer.clone(), ids[number as usize]);
                async move { load::deliver(&spool, id).await }
            });
            done.await;
        }
        assert_eq!(spool.counts().messages, 0, "all are delivered");
        spool.close().await;
    });
    drop(spool);
    folder.put_off(path);
    folder.clear();
    count
}
