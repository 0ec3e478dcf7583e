use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// A whole number as JSON Schema has it: `13.0` is one.
pub(crate) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Whole;
    impl Visitor<'_> for Whole {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
            // Past that a float says no number exactly.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            match number.fract() == 0.0 && (0.0..=EXACT).contains(&number) {
                true => Ok(number as u64),
                false => Err(E::invalid_value(de::Unexpected::Float(number), &self)),
            }
        }
    }
    let number = deserializer.deserialize_any(Whole)?;
    let within = T::try_from(number);
    within.map_err(|_| {
        de::Error::invalid_value(de::Unexpected::Unsigned(number), &"a smaller number")
    })
}

/// The same where there may be none.
pub(crate) fn whole_or_none<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    struct Held<T>(T);
    impl<'de, T: TryFrom<u64>> Deserialize<'de> for Held<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            whole(deserializer).map(Held)
        }
    }
    let held = Option::<Held<T>>::deserialize(deserializer)?;
    Ok(held.map(|Held(number)| number))
}

#[cfg(test)]
mod tests {
    #[derive(serde::Deserialize)]
    struct Held(#[serde(deserialize_with = "super::whole")] u16);

    #[test]
    fn whole_numbers_however_they_are_written() {
        let read = |text: &str| serde_json::from_str::<Held>(text).map(|held| held.0).ok();
        assert_eq!(read("65535"), Some(65535));
        assert_eq!(read("13.0"), Some(13));
        for wrong in ["65536", "-1", "1.5", "1e300", "\"1\"", "null", "true"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
