//! Whole numbers as JSON Schema defines them: `13.0` is one.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// Deserializes a whole number that is not negative.
pub(crate) fn whole_number<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct WholeNumberVisitor;
    impl Visitor<'_> for WholeNumberVisitor {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
            // 2^53: larger floats do not represent every whole number.
            const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
            if number.fract() == 0.0 && (0.0..=MAX_EXACT).contains(&number) {
                Ok(number as u64)
            } else {
                Err(E::invalid_value(de::Unexpected::Float(number), &self))
            }
        }
    }

    let number = deserializer.deserialize_any(WholeNumberVisitor)?;

    T::try_from(number).map_err(|_| {
        de::Error::invalid_value(de::Unexpected::Unsigned(number), &"a smaller number")
    })
}

/// Deserializes a whole number, or `null`.
pub(crate) fn optional_whole_number<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    struct Wrapper<T>(T);
    impl<'de, T: TryFrom<u64>> Deserialize<'de> for Wrapper<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            whole_number(deserializer).map(Wrapper)
        }
    }

    let wrapper = Option::<Wrapper<T>>::deserialize(deserializer)?;
    Ok(wrapper.map(|Wrapper(number)| number))
}

#[cfg(test)]
mod tests {
    #[derive(serde::Deserialize)]
    struct Wrapper(#[serde(deserialize_with = "super::whole_number")] u16);

    #[test]
    fn whole_numbers_in_every_notation() {
        let parse = |text: &str| serde_json::from_str::<Wrapper>(text).map(|one| one.0).ok();
        assert_eq!(parse("65535"), Some(65535));
        assert_eq!(parse("13.0"), Some(13));
        for wrong in ["65536", "-1", "1.5", "1e300", "\"1\"", "null", "true"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
