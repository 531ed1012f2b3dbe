//! One message after another by the `sha1` crate, which takes SHA-NI where the processor has it.

use super::{BLOCK_BYTES, Job, TAG_BYTES, padded_end};

pub(super) fn tag_many(jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    for (job, tag) in jobs.iter().zip(tags) {
        *tag = one(job);
    }
}

fn one(job: &Job<'_>) -> [u8; TAG_BYTES] {
    let state = |words: &[u32; 8]| [words[0], words[1], words[2], words[3], words[4]];
    let inner = digest(state(&job.key.states[0]), BLOCK_BYTES, job.data, job.tail);
    digest(state(&job.key.states[1]), BLOCK_BYTES, &inner, &[])
}

/// The digest of `data` and `tail`, going on from a state that has seen `bytes_before` bytes, whole blocks.
pub(super) fn digest(state: [u32; 5], bytes_before: usize, data: &[u8], tail: &[u8]) -> [u8; TAG_BYTES] {
    let mut state = state;
    let (whole, _) = data.as_chunks::<BLOCK_BYTES>();
    sha1::block_api::compress(&mut state, whole);
    let mut end = [[0; BLOCK_BYTES]; 2];
    let blocks = padded_end(data, tail, bytes_before, &mut end);
    sha1::block_api::compress(&mut state, &end[..blocks]);
    let mut tag = [0; TAG_BYTES];
    for (bytes, word) in tag.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    tag
}

/// The state after one more block.
pub(super) fn compress(state: [u32; 5], block: &[u8; BLOCK_BYTES]) -> [u32; 5] {
    let mut state = state;
    sha1::block_api::compress(&mut state, &[*block]);
    state
}
