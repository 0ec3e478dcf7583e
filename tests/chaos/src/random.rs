//! Random numbers that a seed determines.

/// A generator of pseudo-random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Returns the generator of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the generator for one occurrence of a fault, which does not depend on the faults before it.
    pub(crate) fn of_fault(seed: u64, fault: &str, occurrence: u64) -> Self {
        // FNV-1a: the same in every build, unlike the hashes of the standard library.
        let hash = fault.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });

        Self(seed ^ hash.rotate_left(17) ^ occurrence.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Returns the next number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);

        (z ^ (z >> 31)) % bound
    }

    /// Returns one of these.
    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let at = self.below(all.len() as u64);
        &all[usize::try_from(at).unwrap_or(0)]
    }

    /// Puts these into a random order.
    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap_or(0);
            all.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_numbers() {
        let numbers = |mut random: Random| [(); 8].map(|()| random.below(1000));
        assert_eq!(
            numbers(Random::of_fault(7, "kill", 2)),
            numbers(Random::of_fault(7, "kill", 2))
        );
        assert_ne!(
            numbers(Random::of_fault(7, "kill", 2)),
            numbers(Random::of_fault(7, "kill", 3))
        );
        assert_ne!(
            numbers(Random::of_fault(7, "kill", 2)),
            numbers(Random::of_fault(7, "stop", 2))
        );
    }

    #[test]
    fn a_shuffle_keeps_all() {
        let mut all: Vec<_> = (0..50).collect();
        Random::new(3).shuffle(&mut all);
        assert_ne!(all, (0..50).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}
