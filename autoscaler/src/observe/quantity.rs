//! Kubernetes' quantities: `1500m`, `2k`, `1Mi`, `1e3`.

/// Suffixes, and the factor each stands for.
const UNITS: [(&str, f64); 15] = [
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
];

/// The number a quantity stands for, in its own unit (`1500m` is 1.5); `None`: it is no quantity.
pub(super) fn parse(text: &str) -> Option<f64> {
    let number = |text: &str| {
        let digits = text.bytes().any(|byte| byte.is_ascii_digit());
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        (digits && plain).then(|| text.parse::<f64>().ok()).flatten()
    };
    // With digits behind it an E is an exponent, without them the unit exa.
    if let Some(number) = number(text) {
        return Some(number);
    }
    let (name, factor) =
        UNITS.into_iter().filter(|(name, _)| text.ends_with(name)).max_by_key(|(name, _)| name.len())?;
    number(&text[..text.len() - name.len()]).map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_in_their_own_unit() {
        for (text, number) in [
            ("0", 0.0),
            ("1500m", 1.5),
            ("0m", 0.0),
            ("1m", 0.001),
            ("2", 2.0),
            ("-3", -3.0),
            ("0.5", 0.5),
            ("1e3", 1000.0),
            ("1E3", 1000.0),
            ("2k", 2000.0),
            ("1Ki", 1024.0),
            ("1.5Mi", 1_572_864.0),
            ("1E", 1e18),
            ("100u", 1e-4),
        ] {
            assert!(
                parse(text).is_some_and(|parsed| (parsed - number).abs() <= number.abs() * 1e-12),
                "{text}"
            );
        }
        for text in ["", "m", "Ki", "NaN", "inf", "1K", "1 m", "1mm", "one", "1.2.3", "0x1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
