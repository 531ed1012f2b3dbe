//! A spool file: changes of calls, a line each, in order, on the disk before anybody is told so.
//!
//! A line is the length of its JSON and 8 bytes of the JSON's SHA-256, both hexadecimal, then the JSON itself. Its owner
//! holds a lock on the file (`flock`), so that a file without one is a dead process's, to be replayed by whoever comes.
//! What a crash or a full disk left half-written at the end is cut off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ulid::Ulid;

use crate::calls::Change;

const SUFFIX: &str = ".spool";

/// `0000002a 0123456789abcdef `.
const HEADER_BYTES: usize = 8 + 1 + 16 + 1;

/// A change and its newline.
pub fn encode(change: &Change) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(change)?;
    let mut line = format!("{:08x} {} ", json.len(), checksum(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

fn decode(line: &[u8]) -> Option<Change> {
    let (header, json) = line.strip_suffix(b"\n")?.split_at_checked(HEADER_BYTES)?;
    let expected = format!("{:08x} {} ", json.len(), checksum(json));
    if header != expected.as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn checksum(json: &[u8]) -> String {
    hex::encode(&Sha256::digest(json)[..8])
}

/// An open spool file, locked.
pub struct Spool {
    file: File,
    path: PathBuf,
    /// The good lines end here.
    length: u64,
    /// Up to here they were replayed.
    replayed: u64,
    /// Good lines that were not replayed.
    lines: u64,
    /// A failed write left something behind the good lines.
    torn: bool,
    /// Lines in the middle that cannot be read: the file is kept, under another name.
    damaged: u64,
}

/// Lines as read, and where they end.
pub struct Batch {
    pub changes: Vec<Change>,
    lines: u64,
    end: u64,
}

impl Spool {
    /// A new file of this instance.
    pub fn create(folder: &Path, instance: &str) -> io::Result<Self> {
        let name: String = instance.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let path = folder.join(format!("{name}-{}{SUFFIX}", Ulid::new()));
        // Locked before it has its name: nobody finds it unlocked.
        let unnamed = path.with_extension("new");
        let file = OpenOptions::new().read(true).append(true).create_new(true).open(&unnamed)?;
        let named = file.try_lock().map_err(io::Error::from).and_then(|()| fs::rename(&unnamed, &path));
        if let Err(error) = named.and_then(|()| File::open(folder)?.sync_all()) {
            // Whichever of the two there is.
            let _ = fs::remove_file(&unnamed).or_else(|_| fs::remove_file(&path));
            return Err(error);
        }
        Ok(Self { file, path, length: 0, replayed: 0, lines: 0, torn: false, damaged: 0 })
    }

    /// The files of dead processes, oldest first.
    pub fn adopt(folder: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(stem) = name.strip_suffix(SUFFIX) else { continue };
            let made = stem.rsplit_once('-').map_or(stem, |(_, made)| made).to_owned();
            let Ok(file) = OpenOptions::new().read(true).append(true).open(&path) else { continue };
            // Another has it, and lives.
            if file.try_lock().is_ok() {
                found.push((made, Self::scan(file, path)?));
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found.into_iter().map(|(_, spool)| spool).collect())
    }

    /// Counts the good lines and finds their end.
    fn scan(file: File, path: PathBuf) -> io::Result<Self> {
        let mut spool = Self { file, path, length: 0, replayed: 0, lines: 0, torn: false, damaged: 0 };
        let mut reader = BufReader::new(&spool.file);
        let (mut position, mut bad) = (0, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            position += read as u64;
            match decode(&line) {
                Some(_) => {
                    spool.lines += 1;
                    spool.length = position;
                    spool.damaged += std::mem::take(&mut bad);
                }
                // Good lines may follow: only then is it damage.
                None => bad += 1,
            }
        }
        if bad > 0 {
            tracing::warn!(path = %spool.path.display(), bytes = position - spool.length,
                "the end of a spool file was torn, as by a crash; what was acknowledged is before it");
        }
        Ok(spool)
    }

    /// Writes lines, all of them and onto the disk, or none.
    pub fn append(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        let bytes = lines.concat();
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            self.torn = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.lines += lines.len() as u64;
        Ok(())
    }

    /// The next lines to replay; none at the end.
    pub fn read(&mut self, changes_max: usize) -> io::Result<Batch> {
        self.file.seek(SeekFrom::Start(self.replayed))?;
        let mut reader = BufReader::new((&self.file).take(self.length - self.replayed));
        let mut batch = Batch { changes: Vec::new(), lines: 0, end: self.replayed };
        let mut line = Vec::new();
        while batch.changes.len() < changes_max {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            batch.end += read as u64;
            if let Some(change) = decode(&line) {
                batch.lines += 1;
                batch.changes.push(change);
            }
        }
        Ok(batch)
    }

    /// These need not be read again.
    pub fn replayed(&mut self, batch: &Batch) {
        self.replayed = batch.end;
        self.lines -= batch.lines;
    }

    /// Good lines that were not replayed.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Removes the file, whose lines are all replayed. One with damage in the middle is renamed, for people.
    pub fn remove(self) {
        let removed = if self.damaged > 0 {
            let kept = self.path.with_extension("damaged");
            tracing::error!(path = %kept.display(), lines = self.damaged, "lines of a spool file were damaged; it is kept");
            fs::rename(&self.path, kept)
        } else {
            fs::remove_file(&self.path)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "a replayed spool file cannot be removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: &str) -> Change {
        Change::Answered { id: id.into(), state: "up".into(), at_unix_ms: 3_000, snapshot: None }
    }

    fn lines(ids: &[&str]) -> Vec<Vec<u8>> {
        ids.iter().map(|id| encode(&change(id)).unwrap()).collect()
    }

    fn ids(spool: &mut Spool) -> Vec<String> {
        spool.read(100).unwrap().changes.iter().map(|change| change.call_id().to_owned()).collect()
    }

    #[test]
    fn a_tail_torn_at_any_byte_costs_the_last_line_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(folder.path(), "switchboard-a").unwrap();
        spool.append(&lines(&["c1", "c2", "c3"])).unwrap();
        let (path, last) = (spool.path.clone(), lines(&["c3"])[0].len() as u64);
        assert!(Spool::adopt(folder.path()).unwrap().is_empty(), "its owner lives");
        drop(spool);
        let whole = fs::read(&path).unwrap();
        for cut in 1..=last {
            fs::write(&path, &whole[..whole.len() - cut as usize]).unwrap();
            let mut adopted = Spool::adopt(folder.path()).unwrap();
            assert_eq!(ids(&mut adopted[0]), ["c1", "c2"], "{cut} bytes are missing");
            assert_eq!((adopted[0].lines(), adopted[0].damaged), (2, 0));
        }
    }

    #[test]
    fn a_damaged_line_is_passed_over_and_its_file_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(folder.path(), "switchboard-a").unwrap();
        spool.append(&lines(&["c1", "c2", "c3"])).unwrap();
        let path = spool.path.clone();
        drop(spool);
        let mut bytes = fs::read(&path).unwrap();
        let second = lines(&["c1"])[0].len();
        bytes[second + HEADER_BYTES + 20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let mut adopted = Spool::adopt(folder.path()).unwrap().remove(0);
        assert_eq!(ids(&mut adopted), ["c1", "c3"]);
        let batch = adopted.read(100).unwrap();
        adopted.replayed(&batch);
        assert_eq!((adopted.lines(), ids(&mut adopted).len()), (0, 0));
        adopted.remove();
        assert!(!path.exists() && path.with_extension("damaged").exists());
    }

    #[test]
    fn batches_go_on_where_the_last_one_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(folder.path(), "switchboard-a").unwrap();
        spool.append(&lines(&["c1", "c2", "c3"])).unwrap();
        let first = spool.read(2).unwrap();
        spool.append(&lines(&["c4"])).unwrap();
        assert_eq!(spool.read(1).unwrap().changes[0].call_id(), "c1", "not replayed, so it comes again");
        spool.replayed(&first);
        assert_eq!((ids(&mut spool), spool.lines()), (vec!["c3".to_owned(), "c4".to_owned()], 2));
    }
}
