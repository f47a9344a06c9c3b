//! Identifiers drawn from a seed, so that two runs with one seed see the same uuids and serial numbers.

use uuid::{Builder, Uuid};

/// Characters of a LUN serial number. Arrays use printable ASCII, also characters that need encoding in a query.
/// Left out are the operators of the query language, which no client could ask for.
const PLAIN: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const AWKWARD: &[u8] = b"+/]?$-[#%&@=";

/// A small generator (splitmix64): enough for names, not for secrets.
#[derive(Debug)]
pub(crate) struct Ids {
    state: u64,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.next().to_be_bytes());
        Builder::from_random_bytes(bytes).into_uuid()
    }

    fn pick(&mut self, from: &[u8]) -> u8 {
        let index = usize::try_from(self.next() >> 33).unwrap_or(0) % from.len();
        from[index]
    }

    /// Twelve characters, one of them always awkward.
    pub(crate) fn lun_serial(&mut self) -> String {
        let place = usize::try_from(self.next() >> 33).unwrap_or(0) % 12;
        (0..12).map(|at| char::from(self.pick(if at == place { AWKWARD } else { PLAIN }))).collect()
    }

    pub(crate) fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(self.pick(b"0123456789"))).collect()
    }

    pub(crate) fn hex(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(self.pick(b"0123456789abcdef"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_ids() {
        let (mut a, mut b) = (Ids::new(7), Ids::new(7));
        assert_eq!(a.uuid(), b.uuid());
        assert_eq!(a.lun_serial(), b.lun_serial());
        assert_ne!(a.uuid(), Ids::new(8).uuid());
    }

    #[test]
    fn serials_are_twelve_printable_characters_with_an_awkward_one() {
        let mut ids = Ids::new(1);
        for _ in 0..500 {
            let serial = ids.lun_serial();
            assert_eq!(serial.len(), 12);
            assert!(serial.bytes().all(|c| c.is_ascii_graphic()));
            assert!(serial.bytes().any(|c| AWKWARD.contains(&c)), "{serial}");
        }
    }
}
