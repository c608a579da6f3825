//! Text: names in `snake_case` and `CamelCase`, functions and types as users write them, durations,
//! and the name that a misspelt one is nearest to.
//!
//! Invariant: only this module computes the names of steps and of signals.

use std::time::Duration;

use proc_macro2::Ident;
use quote::ToTokens;

/// Turns `AwaitPay` into `await_pay`, and `HTTPCall` into `http_call`.
pub(crate) fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 4);
    for (index, letter) in letters.iter().enumerate() {
        if letter.is_uppercase() {
            let before = index.checked_sub(1).map(|before| letters[before]);
            let after = letters.get(index + 1);
            let word_begins = match before {
                None | Some('_') => false,
                Some(before) if before.is_uppercase() => {
                    after.is_some_and(|after| after.is_lowercase())
                }
                Some(_) => true,
            };
            if word_begins {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        } else {
            snake.push(*letter);
        }
    }
    snake
}

/// Turns `await_pay` into `AwaitPay`.
pub(crate) fn camel_case(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            let mut letters = word.chars();
            letters.next().into_iter().flat_map(char::to_uppercase).chain(letters)
        })
        .collect()
}

/// Returns a step's name as the code of its function writes it, such as `r#match`; none if no
/// function can have the name.
pub(crate) fn function_name(step: &str) -> Option<String> {
    if matches!(step, "crate" | "self" | "super" | "_") {
        return None;
    }
    let plain = syn::parse_str::<Ident>(step).is_ok();
    Some(if plain { step.to_owned() } else { format!("r#{step}") })
}

/// Returns a type or a path as users write it: `&Arc<dyn Carrier>`.
pub(crate) fn compact(tokens: &impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (loose, tight) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" ,", ","),
    ] {
        text = text.replace(loose, tight);
    }
    text
}

/// Reads `500ms`, `30s`, `5m` or `1h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    };
    (!duration.is_zero()).then_some(duration)
}

/// Returns the name in `names` that `name` probably misspells: about a third of its letters differ
/// at most.
pub(crate) fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    names
        .iter()
        .map(|candidate| (distance(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The Levenshtein distance of two names.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (index, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[index + 1];
            row[index + 1] = replaced.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_snake_case() {
        for (name, snake) in [
            ("Start", "start"),
            ("AwaitPay", "await_pay"),
            ("HTTPCall", "http_call"),
            ("CallHTTP", "call_http"),
            ("V2Done", "v2_done"),
            ("A", "a"),
            ("Ärger", "ärger"),
            ("already_snake", "already_snake"),
        ] {
            assert_eq!(snake_case(name), snake);
        }
    }

    #[test]
    fn names_in_camel_case() {
        assert_eq!(camel_case("await_pay"), "AwaitPay");
        assert_eq!(camel_case("_x__y"), "XY");
    }

    #[test]
    fn names_of_functions() {
        assert_eq!(function_name("ship").as_deref(), Some("ship"));
        assert_eq!(function_name("match").as_deref(), Some("r#match"));
        assert_eq!(function_name("crate"), None);
    }

    #[test]
    fn types_as_they_are_written() {
        let ty: syn::Type = syn::parse_quote!(&std::sync::Arc<dyn Fn(&str, Vec<u8>) -> u32>);
        assert_eq!(compact(&ty), "&std::sync::Arc<dyn Fn (&str, Vec<u8>) -> u32>");
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Some(Duration::from_mins(5)));
        assert_eq!(duration("1h"), Some(Duration::from_hours(1)));
        for wrong in ["", "30", "s", "0s", "-1s", "1.5s", "30 s", "1d", "99999999999999999999s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(duration("18446744073709551615h"), None);
    }

    #[test]
    fn the_nearest_name() {
        assert_eq!(nearest("verison", &["version", "queue"]), Some("version"));
        assert_eq!(nearest("signal", &["signals", "state"]), Some("signals"));
        assert_eq!(nearest("retry", &["version", "queue"]), None);
    }
}
