//! Durations and sizes as people write them.

use std::time::Duration;

/// Reads `10s`, `500ms`, `250us`, `2m`, `1h`, `30d`; a bare number is refused, for nobody knows its
/// unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let micros: u64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        "" => return Err(format!("no unit; write {text}s or {text}ms")),
        _ => return Err(format!("unknown unit '{unit}'; use us, ms, s, m, h or d")),
    };
    let total = number.checked_mul(micros).ok_or("too long")?;
    Ok(Duration::from_micros(total))
}

/// The same, of which something must be left: nothing is done in no time.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() { Err("at least 1us".to_string()) } else { Ok(time) }
}

/// The same, for options that count in seconds: a bare number is one of seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        Ok(_) => Err("at least 1us".to_string()),
        Err(_) => some_time(text),
    }
}

/// Reads a number of bytes: `64`, `4KiB`, `1MiB`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return Err(format!("unknown unit '{unit}'; use B, KiB, MiB or GiB")),
    };
    let bytes = number.checked_mul(1 << shift).ok_or("too large")?;
    usize::try_from(bytes).map_err(|_| "too large".to_string())
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if unit.starts_with(['.', ',']) {
        return Err("whole numbers only; take a smaller unit".to_string());
    }
    let number =
        number.parse().map_err(|_| "begins with no number, or one too large".to_string())?;
    Ok((number, unit.trim()))
}

/// A number with its thousands apart: `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time for people: `850 us`, `1.31 ms`, `2.1 s`.
pub(crate) fn time(micros: u64) -> String {
    match micros {
        0..=999 => format!("{micros} us"),
        1_000..=9_999 => format!("{:.2} ms", micros as f64 / 1e3),
        10_000..=999_999 => format!("{} ms", micros / 1_000),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250 ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("10").unwrap_err().contains("10s"));
        assert!(duration("10 parsecs").unwrap_err().contains("parsecs"));
        assert_eq!(duration("3650d"), duration("87600h"));
        assert!(duration("1.5s").unwrap_err().contains("smaller unit"));
        assert!(duration("s").is_err());
        assert!(duration("-1s").is_err());
        assert!(duration("99999999999999999999s").is_err());
        assert!(duration("18446744073709551615h").is_err());
    }

    #[test]
    fn seconds_may_be_bare() {
        assert_eq!(seconds("5"), Ok(Duration::from_secs(5)));
        assert_eq!(seconds("200ms"), Ok(Duration::from_millis(200)));
        assert!(seconds("0").is_err());
    }

    #[test]
    fn sizes_are_bytes() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("4KiB"), Ok(4096));
        assert!(size("4 kilos").is_err());
        assert!(size("99999999999GiB").is_err());
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123_456), "123,456");
        assert_eq!(time(850), "850 us");
        assert_eq!(time(1_310), "1.31 ms");
        assert_eq!(time(2_100_000), "2.10 s");
    }
}
