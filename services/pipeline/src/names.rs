//! `generateName`: a base and five characters that are hard to misread and spell nothing.

use galley_store::Entropy;
use rand::Rng;

/// No vowels and no digits or letters that look alike.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// A name is a DNS label at most (63), so a longer base is cut to leave room for the suffix.
const MAX_BASE: usize = 63 - SUFFIX;

/// `base` and a random suffix.
pub fn generate(base: &str, entropy: &Entropy) -> String {
    let mut cut = base.len().min(MAX_BASE);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base[..cut].to_owned();
    name.push_str(&suffix(entropy));
    name
}

/// Five random characters.
pub fn suffix(entropy: &Entropy) -> String {
    entropy.draw(|rng| (0..SUFFIX).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_keeps_its_base_and_fits_a_label() {
        let entropy = Entropy::system();
        let name = generate("web-", &entropy);
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generate(&"x".repeat(100), &entropy).len(), 63);
        assert!(suffix(&entropy).bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
