//! Where jobs come from: lines of files and of standard input, or whole files. Memory stays bounded by the batches.

use crate::base::limits::PAYLOAD_BYTES_MAX;
use crate::cli::exit::Failure;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How much is read ahead, in bytes.
const READ_AHEAD_BYTES: usize = 1024 * 1024;

/// Payloads that go to the server in one request.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    first: u64,
    input_bytes: u64,
}

impl Batch {
    /// How many jobs.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Number of the first job in the whole input, from 1.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// How much of the input was read up to its end, in bytes.
    pub(super) fn input_bytes(&self) -> u64 {
        self.input_bytes
    }

    /// Payloads of some positions.
    pub(super) fn payloads(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        range.map(|at| {
            let start = if at == 0 { 0 } else { self.ends[at - 1] };
            &self.bytes[start..self.ends[at]]
        })
    }

    fn begin(&mut self, first: u64) {
        self.bytes.clear();
        self.ends.clear();
        self.first = first;
    }

    fn end_job(&mut self, input_bytes: u64) {
        self.ends.push(self.bytes.len());
        self.input_bytes = input_bytes;
    }
}

/// How large a batch may become. One job always fits.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLimits {
    /// Jobs.
    pub(super) jobs: usize,
    /// Payload bytes.
    pub(super) bytes: usize,
}

/// The input, from the first file to the last.
pub(super) struct Source {
    /// Files not opened yet, the next one last.
    rest: Vec<PathBuf>,
    open: Option<Open>,
    whole: bool,
    jobs: u64,
    bytes: u64,
}

struct Open {
    path: PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
}

impl Source {
    /// The files in their order, `-` being standard input; a job a line, or a job a file.
    pub(super) fn new(files: &[PathBuf], whole: bool) -> Self {
        Self {
            rest: files.iter().rev().cloned().collect(),
            open: None,
            whole,
            jobs: 0,
            bytes: 0,
        }
    }

    /// Fills `batch` anew; it stays empty at the end of the input. A batch ends early when more would have to be
    /// waited for, so that what a slow writer has sent is enqueued and not kept.
    ///
    /// # Errors
    /// A file that cannot be read, or a payload longer than any may be.
    pub(super) fn fill(&mut self, batch: &mut Batch, limits: BatchLimits) -> Result<(), Failure> {
        batch.begin(self.jobs + 1);
        while batch.count() < limits.jobs && batch.bytes.len() < limits.bytes {
            if self.open.is_none() {
                let Some(path) = self.rest.pop() else { break };
                self.open = Some(Open::new(path)?);
            }
            let Some(open) = &mut self.open else { break };
            if batch.count() > 0 && open.reader.buffer().is_empty() {
                break;
            }
            let read = if self.whole {
                open.read_whole(batch)
            } else {
                open.read_line(batch)
            };
            let ended = self.whole || matches!(read, Ok(None));
            match read {
                Ok(None) => {}
                Ok(Some(read)) if read.payload_bytes > PAYLOAD_BYTES_MAX as usize => {
                    return Err(Failure::usage(format!(
                        "job {} of the input, in {}, is longer than a payload may be, 16 MiB",
                        self.jobs + 1,
                        open.name()
                    )));
                }
                Ok(Some(read)) => {
                    self.jobs += 1;
                    self.bytes += read.bytes as u64;
                    batch.end_job(self.bytes);
                }
                Err(error) => return Err(cannot_read(&open.name(), &error)),
            }
            if ended {
                self.open = None;
            }
        }
        Ok(())
    }
}

/// What one job took from the input.
struct Taken {
    /// With the line end.
    bytes: usize,
    /// Without.
    payload_bytes: usize,
}

impl Open {
    fn new(path: PathBuf) -> Result<Self, Failure> {
        let input: Box<dyn Read + Send> = if is_stdin(&path) {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&path).map_err(|error| cannot_read(&path.display().to_string(), &error))?)
        };
        Ok(Self {
            path,
            reader: BufReader::with_capacity(READ_AHEAD_BYTES, input),
        })
    }

    fn name(&self) -> String {
        if is_stdin(&self.path) {
            "standard input".to_owned()
        } else {
            self.path.display().to_string()
        }
    }

    /// Appends a line without its end; `None` at the end of the file. Reads no more than shows it to be too long.
    fn read_line(&mut self, batch: &mut Batch) -> io::Result<Option<Taken>> {
        let mut limited = (&mut self.reader).take(u64::from(PAYLOAD_BYTES_MAX) + 2);
        let bytes = limited.read_until(b'\n', &mut batch.bytes)?;
        let has_end = bytes > 0 && batch.bytes.last() == Some(&b'\n');
        if has_end {
            batch.bytes.pop();
        }
        Ok((bytes > 0).then_some(Taken {
            bytes,
            payload_bytes: bytes - usize::from(has_end),
        }))
    }

    /// Appends everything that is left.
    fn read_whole(&mut self, batch: &mut Batch) -> io::Result<Option<Taken>> {
        let bytes = (&mut self.reader)
            .take(u64::from(PAYLOAD_BYTES_MAX) + 1)
            .read_to_end(&mut batch.bytes)?;
        Ok(Some(Taken {
            bytes,
            payload_bytes: bytes,
        }))
    }
}

/// Whether a path stands for standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: BatchLimits = BatchLimits {
        jobs: 2,
        bytes: 1_000,
    };

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    fn all(source: &mut Source, limits: BatchLimits) -> Vec<Vec<u8>> {
        let mut batch = Batch::default();
        let mut jobs = Vec::new();
        loop {
            source.fill(&mut batch, limits).unwrap();
            if batch.count() == 0 {
                return jobs;
            }
            assert_eq!(batch.first(), jobs.len() as u64 + 1);
            assert!(batch.count() <= limits.jobs);
            jobs.extend(batch.payloads(0..batch.count()).map(<[u8]>::to_vec));
        }
    }

    #[test]
    fn a_line_is_a_job_with_or_without_its_end() {
        let (one, two) = (file(b"a\n\nb\r\n"), file(b"c"));
        let mut source = Source::new(&[one.path().to_owned(), two.path().to_owned()], false);
        assert_eq!(all(&mut source, SMALL), [&b"a"[..], b"", b"b\r", b"c"]);
        assert_eq!(source.bytes, 7);
    }

    #[test]
    fn a_whole_file_is_a_job_even_when_empty() {
        let (one, two) = (file(b"a\nb\n"), file(b""));
        let mut source = Source::new(&[one.path().to_owned(), two.path().to_owned()], true);
        assert_eq!(all(&mut source, SMALL), [&b"a\nb\n"[..], b""]);
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        let mut content = vec![b'x'; PAYLOAD_BYTES_MAX as usize];
        content.push(b'\n');
        let longest = file(&content);
        assert_eq!(
            all(&mut Source::new(&[longest.path().to_owned()], false), SMALL).len(),
            1
        );
        content[PAYLOAD_BYTES_MAX as usize] = b'x';
        let longer = file(&content);
        for whole in [false, true] {
            let mut source = Source::new(&[longer.path().to_owned()], whole);
            let failure = source.fill(&mut Batch::default(), SMALL).unwrap_err();
            assert!(failure.to_string().contains("job 1"), "{failure}");
        }
    }
}
