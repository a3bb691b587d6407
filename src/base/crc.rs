//! The one checksum of the log: CRC-32C, which the processor computes.

/// The checksum of what `crc` already covers, followed by `bytes`. Begin with 0.
///
/// ```
/// use ackring::base::crc::crc32c;
/// assert_eq!(crc32c(0, b"123456789"), 0xE306_9283);
/// assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xE306_9283);
/// ```
#[inline]
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}
