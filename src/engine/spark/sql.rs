//! Quoting: the only way from a value to SQL text. A name in bronze, a record or a setting can never become SQL.
//!
//! Servers do not agree on escapes inside quotes (`''` is one quote here and two literals side by side there, a backslash begins an
//! escape or is one). So a text literal has neither: whatever is not plain is written in hexadecimal.

/// A name of a column or field, in backticks.
pub fn name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text.
pub fn text(text: &str) -> String {
    // What some servers replace before they parse.
    let substituted = text.contains("${");
    if text.bytes().all(is_plain) && !substituted { format!("'{text}'") } else { format!("CAST(X'{}' AS STRING)", hex(text)) }
}

/// A text where grammar wants a literal and no expression, on as many lines as it has. Spark and Databricks; other servers do not agree
/// on escapes.
pub fn literal(text: &str) -> String {
    use std::fmt::Write;
    let mut quoted = String::with_capacity(text.len() + 2);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        // `${` and `{{` begin what is replaced before a statement is parsed; a semicolon ends one for some who split files.
        let opens = matches!(c, '$' | '{') && rest.peek() == Some(&'{');
        // Writing to a String cannot fail.
        let _ = match c {
            '\'' | '\\' => write!(quoted, "\\{c}"),
            '\n' => quoted.write_char(c),
            c if c.is_control() || c == ';' || opens => write!(quoted, "\\u{:04X}", c as u32),
            c => quoted.write_char(c),
        };
    }
    format!("'{quoted}'")
}

/// Printable ASCII without quotes that end a text, backslashes, and what ends a statement.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" !\"#$%&()*+,-./:<=>?@[]^_`{|}~".contains(&byte)
}

fn hex(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(2 * text.len()), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02X}");
        hex
    })
}

pub fn long(number: i64) -> String {
    if number == i64::MIN { "(-9223372036854775807 - 1)".to_owned() } else { format!("CAST({number} AS BIGINT)") }
}

/// The shortest text that reads back as the same number.
pub fn double(number: f64) -> String {
    format!("CAST('{number:e}' AS DOUBLE)")
}

/// A Delta table by its place.
pub fn table(url: &str) -> String {
    format!("delta.{}", name(url))
}

/// Every condition holds; none at all is true.
pub fn all(conditions: &[String]) -> String {
    if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join("\n  AND ") }
}

/// A literal part of a regular expression that the engines' dialects read alike.
pub fn literally(text: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_ascii_alphanumeric() || " _-,:=<>@%&~#!/\"'`;".contains(c) || !c.is_ascii() => c.to_string(),
        '^' => "\\^".to_owned(),
        '\\' => "\\\\".to_owned(),
        '[' => "\\[".to_owned(),
        ']' => "\\]".to_owned(),
        c => format!("[{c}]"),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_quotes() {
        assert_eq!(name("a`b"), "`a``b`");
        assert_eq!(text("plain: 1/2"), "'plain: 1/2'");
        for hostile in ["it's", "a\\", "\\' OR 1=1 --", "${x}", ";", "\u{1f}", "é", "\0", "\n"] {
            let quoted = text(hostile);
            let inner = quoted.strip_prefix("CAST(X'").and_then(|rest| rest.strip_suffix("' AS STRING)")).unwrap();
            assert!(inner.bytes().all(|byte| byte.is_ascii_hexdigit()), "{quoted}");
        }
        assert_eq!(text("'"), "CAST(X'27' AS STRING)");
        assert_eq!(literal("s3://lake/a b"), "'s3://lake/a b'");
        assert_eq!(literal("it's ${x} {{y}} $1 é\\;\n\t"), "'it\\'s \\u0024{x} \\u007B{y}} $1 é\\\\\\u003B\n\\u0009'");
    }

    #[test]
    fn names_stand_for_themselves_in_patterns() {
        for name in ["a", "a.b", "a b", "x{2}", "(a|b)", "^a$", "a\\d", "[a]", "a*b+c?", "é`"] {
            let pattern = regex::Regex::new(&format!("^{}$", literally(name))).unwrap();
            assert!(pattern.is_match(name), "{name}");
        }
    }
}
