//! What the spool is compared with: a file for each message, as classic queues keep mail.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use backupmx_relay::mail::id::MessageId;

/// A queue folder. Clones share it.
#[derive(Clone)]
pub struct Files {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    /// Stays open: looking it up for each message would only make it slower.
    new: File,
}

impl Files {
    /// In an empty folder.
    pub fn new(root: &Path) -> Self {
        let make = |name| fs::create_dir(root.join(name)).expect("a folder can be made");
        ["tmp", "new"].into_iter().for_each(make);
        let new = File::open(root.join("new")).expect("a folder can be opened");
        Self { shared: Arc::new(Shared { root: root.to_owned(), new }) }
    }

    /// Returns once the message and its name are on stable storage.
    pub async fn keep(&self, bytes: Vec<u8>) -> MessageId {
        self.blocking(move |shared| shared.write(&bytes)).await
    }

    /// A message is delivered. Nothing is synced: after a crash it would be delivered again.
    pub async fn remove(&self, id: MessageId) {
        self.blocking(move |shared| fs::remove_file(shared.new_path(id))).await;
    }

    async fn blocking<T: Send + 'static>(&self, act: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static) -> T {
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || act(&shared)).await;
        done.expect("the pool runs").expect("the disk does as it is told")
    }
}

impl Shared {
    fn new_path(&self, id: MessageId) -> PathBuf {
        self.root.join("new").join(id.to_string())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<MessageId> {
        let id = MessageId::new();
        let temporary = self.root.join("tmp").join(id.to_string());
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, self.new_path(id))?;
        self.new.sync_all()?;
        Ok(id)
    }
}
