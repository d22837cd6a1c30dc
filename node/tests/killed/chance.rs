//! Numbers as if by chance.

/// Takes a seed, for a run that shall be like an earlier one.
const SEED: &str = "FIRN_TEST_SEED";

/// Numbers as if by chance, the same for the same seed: Steele and Vigna's SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// From the environment's seed, or a new one, which is printed.
    pub(crate) fn of_this_run() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(seed) => seed.parse().expect("the seed is a number"),
            Err(_) => {
                let mut seed = [0; 4];
                getrandom::fill(&mut seed).unwrap();
                u64::from(u32::from_le_bytes(seed))
            }
        };
        eprintln!("{SEED}={seed}");
        Self(seed)
    }

    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// Others than these, which go on as they would have.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(crate) fn one_of(&mut self, among: &[usize]) -> Option<usize> {
        let length = among.len() as u64;
        (length > 0).then(|| among[self.below(length) as usize])
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(length).collect()
    }
}
