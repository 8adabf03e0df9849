//! Returned mail from a maildir (<https://cr.yp.to/proto/maildir.html>), where another server delivers it: each file of
//! `new/` goes to the handler and, when it is kept, to `cur/`. A crash in between offers the file again. It deletes
//! nothing and writes nothing of its own.

use super::{Handler, Incoming};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{fs, io::AsyncReadExt as _, time::sleep};
use tokio_util::sync::CancellationToken;

/// Files that one round looks at: the rest waits for the next.
const MAX_ROUND: usize = 1000;

/// A maildir to watch.
#[derive(Clone, Debug)]
pub struct Maildir {
    /// The folder with `new/` and `cur/`.
    pub folder: PathBuf,
    /// How often it is looked at.
    pub every: Duration,
    /// Bytes of a message that are read, see [`super::listener::Config::keep_bytes`].
    pub keep_bytes: u64,
}

impl Maildir {
    /// Watches until `stop`. What fails is logged and tried again in the next round.
    pub async fn watch(&self, handler: &dyn Handler, stop: &CancellationToken) {
        let rounds = async {
            loop {
                if let Err(error) = self.round(handler).await {
                    tracing::warn!(%error, folder = %self.folder.display(), "maildir cannot be read");
                }
                sleep(self.every).await;
            }
        };
        stop.run_until_cancelled(rounds).await;
    }

    /// Hands over what lies in `new/`, the oldest name first; returns how many messages were kept.
    ///
    /// # Errors The folder cannot be read, or a file not be moved. A message that is not kept stays and holds up none
    /// of the others.
    pub async fn round(&self, handler: &dyn Handler) -> io::Result<usize> {
        let (mut names, mut entries) = (Vec::new(), fs::read_dir(self.folder.join("new")).await?);
        while let Some(entry) = entries.next_entry().await? {
            // Names that begin with a dot are none of the maildir's.
            let is_mail = entry.file_type().await?.is_file() && !entry.file_name().to_string_lossy().starts_with('.');
            if is_mail {
                names.push(entry.file_name());
            }
        }
        names.sort();
        names.truncate(MAX_ROUND);
        let mut kept = 0;
        for name in names {
            let path = self.folder.join("new").join(&name);
            let content = match self.read(&path).await {
                Ok(content) => content,
                // Another reader was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match handler.take(Incoming { recipients: Vec::new(), content }).await {
                Ok(()) => {
                    self.set_aside(&path, &name.to_string_lossy()).await?;
                    kept += 1;
                }
                Err(error) => tracing::warn!(%error, "returned mail was not kept; it stays in the maildir"),
            }
        }
        Ok(kept)
    }

    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        fs::File::open(path).await?.take(self.keep_bytes).read_to_end(&mut content).await?;
        Ok(content)
    }

    /// Moves a file to `cur/` as seen. A name that is taken there is another message's and stays: linking fails where
    /// renaming would overwrite.
    async fn set_aside(&self, path: &Path, name: &str) -> io::Result<()> {
        let base = name.split(":2,").next().unwrap_or(name);
        for n in 0..=u16::MAX {
            let suffix = if n == 0 { String::new() } else { format!(".{n}") };
            let target = self.folder.join("cur").join(format!("{base}{suffix}:2,S"));
            match fs::hard_link(path, &target).await {
                Ok(()) => return fs::remove_file(path).await,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}
