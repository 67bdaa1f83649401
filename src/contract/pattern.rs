//! ECMA 262 patterns → the `regex` crate, for the part where both agree once spelled alike.
//!
//! `\d` and `\w` are ASCII in ECMA, `.` excludes four line ends. Look-around, back references and the escapes that need
//! Unicode tables are left to the rest: `None`.

/// The same pattern in the `regex` crate's dialect, or `None` where a finite automaton is not enough.
pub fn translate(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                'd' if in_class => out.push_str("0-9"),
                'd' => out.push_str("[0-9]"),
                'w' if in_class => out.push_str("A-Za-z0-9_"),
                'w' => out.push_str("[A-Za-z0-9_]"),
                escaped @ ('t' | 'n' | 'r' | 'f' | 'v') => out.extend(['\\', escaped]),
                escaped if escaped.is_ascii_punctuation() => out.extend(['\\', escaped]),
                _ => return None,
            },
            '[' if in_class => out.push_str("\\["),
            '[' => {
                in_class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
                if chars.peek() == Some(&']') {
                    return None;
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            ']' | '}' if !in_class && c == ']' => out.push_str("\\]"),
            '&' | '~' if in_class => out.extend(['\\', c]),
            '-' if in_class && chars.peek() == Some(&'-') => return None,
            '.' if !in_class => out.push_str("[^\\n\\r\\u{2028}\\u{2029}]"),
            '(' if !in_class && chars.peek() == Some(&'?') => {
                chars.next();
                if chars.next()? != ':' {
                    return None;
                }
                out.push_str("(?:");
            }
            _ => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn spells_alike_or_declines() {
        assert_eq!(translate(r"^\d{4}-[\w.]+$").as_deref(), Some(r"^[0-9]{4}-[A-Za-z0-9_.]+$"));
        assert_eq!(translate("^(?:a|b).$").as_deref(), Some("^(?:a|b)[^\\n\\r\\u{2028}\\u{2029}]$"));
        for declined in [r"(?=a)", r"(a)\1", r"\bword", r"\p{L}", r"\s", "[]a]"] {
            assert_eq!(translate(declined), None, "{declined}");
        }
    }
}
