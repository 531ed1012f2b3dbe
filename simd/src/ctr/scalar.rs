//! Counter mode by the `aes` crate, eight blocks at once.

use super::Job;
use crate::aes::{BLOCK_BYTES, SCALAR_BLOCKS, Schedule};

pub(super) fn apply_many(jobs: &mut [Job<'_>]) {
    for job in jobs {
        apply(job.schedule, job.iv, job.data);
    }
}

pub(crate) fn apply(schedule: &Schedule, iv: [u8; BLOCK_BYTES], data: &mut [u8]) {
    let (prefix, counter) = iv.split_at(12);
    let mut counter = u32::from_be_bytes([counter[0], counter[1], counter[2], counter[3]]);
    for chunk in data.chunks_mut(SCALAR_BLOCKS * BLOCK_BYTES) {
        let mut stream = [[0; BLOCK_BYTES]; SCALAR_BLOCKS];
        for block in &mut stream {
            block[..12].copy_from_slice(prefix);
            block[12..].copy_from_slice(&counter.to_be_bytes());
            counter = counter.wrapping_add(1);
        }
        schedule.encrypt_blocks(&mut stream);
        for (byte, key) in chunk.iter_mut().zip(stream.as_flattened()) {
            *byte ^= key;
        }
    }
}
