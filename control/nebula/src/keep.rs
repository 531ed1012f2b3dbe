//! The snapshots of an embedded system: the store's file behind the bus's [`Keep`]. Both crates know nobody, so this is
//! where they meet.

use async_trait::async_trait;
use bytes::Bytes;
use nebula_bus::contract::InstanceId;
use nebula_bus::snapshots::{Change, Keep, KeepError, Kept};
use nebula_store::snapshots::{Error, File, Rows};

/// Snapshots in a file; clones share it.
#[derive(Clone)]
pub struct FileKeep(pub File);

#[async_trait]
impl Keep for FileKeep {
    async fn enter(&self, instance: &InstanceId) -> Result<(u64, Kept), KeepError> {
        let (fence, rows) = self.0.enter(instance.as_str()).await.map_err(refused)?;
        Ok((fence, kept(rows)))
    }

    async fn write(&self, instance: &InstanceId, fence: u64, changes: &[Change]) -> Result<(), KeepError> {
        self.0.write(instance.as_str(), fence, changes).await.map_err(refused)
    }

    async fn rewrite(&self, instance: &InstanceId, fence: u64, all: &[(String, Bytes)]) -> Result<(), KeepError> {
        self.0.rewrite(instance.as_str(), fence, all).await.map_err(refused)
    }

    async fn take_over(
        &self,
        dead: &InstanceId,
        heir: &InstanceId,
        fence: u64,
    ) -> Result<Option<(u64, Kept)>, KeepError> {
        let taken = self.0.take_over(dead.as_str(), heir.as_str(), fence).await.map_err(refused)?;
        Ok(taken.map(|(fence, rows)| (fence, kept(rows))))
    }
}

fn kept(rows: Rows) -> Kept {
    rows.into_iter().map(|(key, bytes)| (key, bytes.into())).collect()
}

fn refused(error: Error) -> KeepError {
    match error {
        Error::Fenced(instance) => KeepError::Fenced(InstanceId(instance)),
        other => KeepError::Away(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nebula_bus::Membership;
    use nebula_bus::contract::Role;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_one_start_kept_the_next_one_finds_and_the_first_is_fenced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("snapshots.db");
        let enter = async || {
            let keep = FileKeep(File::open(&file).unwrap());
            Membership::enter(Arc::new(keep), Role::Proxy, "here").await.unwrap()
        };
        let first = enter().await;
        assert_eq!((first.instance.as_str(), first.restored.len()), ("proxy-here", 0));
        first.snapshots.put("leg/1", "one");
        first.snapshots.put("leg/2", "two");
        first.snapshots.delete("leg/1");
        first.snapshots.flush().await;

        let second = enter().await;
        assert_eq!(second.restored, [("leg/2".to_owned(), Bytes::from("two"))]);
        assert!(second.fence.get() > first.fence.get());
        first.snapshots.put("leg/2", "late");
        first.snapshots.fenced().await;
        assert_eq!(enter().await.restored, second.restored, "the fenced one changed nothing");
    }
}
