//! The cache of extensions and locations: the bus's Redis behind the store's [`Cache`]. Both crates know nobody, so this
//! is where they meet.

use async_trait::async_trait;
use nebula_bus::redis;
use nebula_store::{Cache, CacheError};
use std::time::Duration;

/// A cache in Redis.
pub struct RedisCache(pub redis::Cache);

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(self.0.get(key).await?.map(Into::into))
    }

    async fn set(&self, key: &str, bytes: &[u8], ttl: Duration) -> Result<(), CacheError> {
        Ok(self.0.set(key, bytes, ttl).await?)
    }

    async fn add(&self, key: &str, bytes: &[u8], ttl: Duration) -> Result<bool, CacheError> {
        Ok(self.0.add(key, bytes, ttl).await?)
    }
}
