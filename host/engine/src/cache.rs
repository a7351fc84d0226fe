//! What a device can make again, kept from process to process: the engine has no files, so whoever has some gives it a [`DeviceCache`].
//!
//! What is kept is sealed with the identity of what made it and a checksum. Anything that is not whole, or another's, counts as nothing.

/// A place for things that can be made again.
pub trait DeviceCache: Send + Sync {
    /// What was saved under the name; `None` where there is nothing, or it cannot be read.
    fn load(&self, name: &str) -> Option<Vec<u8>>;
    /// Keeps the bytes for later processes, whole or not at all. Failing costs time later, nothing else.
    fn save(&self, name: &str, bytes: &[u8]);
}

/// First line of everything that is kept.
const MAGIC: &str = "solstice cache 1";

/// Name under which `kind` of things is kept for the device, driver and engine of `identity`; a file's name on every system.
pub(crate) fn name(kind: &str, identity: &str) -> String {
    format!("{kind}-{:016x}", checksum(identity.as_bytes()))
}

/// The bytes with what [`opened`] asks for.
pub(crate) fn sealed(identity: &str, bytes: &[u8]) -> Vec<u8> {
    let mut all = format!("{MAGIC}\n{identity}\n{:016x}\n", checksum(bytes)).into_bytes();
    all.extend(bytes);
    all
}

/// The bytes that were sealed, if they are whole and of this identity.
pub(crate) fn opened<'a>(identity: &str, all: &'a [u8]) -> Option<&'a [u8]> {
    let rest = all.strip_prefix(format!("{MAGIC}\n{identity}\n").as_bytes())?;
    let (sum, bytes) = rest.split_at_checked(17)?;
    (sum == format!("{:016x}\n", checksum(bytes)).as_bytes()).then_some(bytes)
}

/// FNV-1a of 64 bits: against files cut short or overwritten, not against enemies. <http://www.isthe.com/chongo/tech/comp/fnv/>
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_whole_and_ones_own_opens() {
        let all = sealed("adapter 1", b"kernels");
        assert_eq!(opened("adapter 1", &all), Some(&b"kernels"[..]));
        assert_eq!(opened("adapter 2", &all), None);
        for end in 0..all.len() {
            assert_eq!(opened("adapter 1", &all[..end]), None, "cut at {end}");
        }
        for place in 0..all.len() {
            let mut broken = all.clone();
            broken[place] ^= 1;
            assert_eq!(opened("adapter 1", &broken), None, "changed at {place}");
        }
        assert_eq!(opened("x", &sealed("x", b"")), Some(&b""[..]));
    }

    #[test]
    fn the_checksum_is_fnv_1a() {
        // From the authors' table of test vectors.
        assert_eq!(checksum(b""), 0xcbf29ce484222325);
        assert_eq!(checksum(b"a"), 0xaf63dc4c8601ec8c);
        assert_eq!(checksum(b"foobar"), 0x85944171f73967e8);
    }
}
