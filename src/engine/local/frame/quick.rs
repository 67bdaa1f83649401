//! The end of an object that lies in the buffer whole and whose punctuation is sound, in one go.

use crate::domain::json::find_special;

const DEPTH: u32 = 64;

/// `None` where the object does not end here, or is unusual in any way: the resumable scan is to be asked. So it is where the object
/// has a field with which a way of `records_at` begins.
pub(super) fn sound_object(bytes: &[u8], start: usize, records_at: &[Vec<String>]) -> Option<usize> {
    // One bit for each open bracket, the innermost lowest: whether it is an object.
    let (mut open, mut depth) = (1_u64, 1);
    let (mut at, mut is_empty) = (start + 1, true);
    loop {
        // Behind an opening bracket or a comma.
        at = token(bytes, at)?;
        let is_object = open & 1 == 1;
        let mut closes = is_empty && bytes[at] == closing(is_object);
        if !closes {
            if is_object {
                let key = at;
                at = string(bytes, key)?;
                if depth == 1 && begins(records_at, &bytes[key + 1..at - 1]) {
                    return None;
                }
                at = token(bytes, at)?;
                if bytes[at] != b':' {
                    return None;
                }
                at = token(bytes, at + 1)?;
            }
            match bytes[at] {
                b'"' => at = string(bytes, at)?,
                bracket @ (b'{' | b'[') => {
                    if depth == DEPTH {
                        return None;
                    }
                    open = open << 1 | u64::from(bracket == b'{');
                    depth += 1;
                    (at, is_empty) = (at + 1, true);
                    continue;
                }
                _ => at = literal(bytes, at)?,
            }
        }
        // Behind a value, or at the end of an empty object or array.
        loop {
            if !std::mem::take(&mut closes) {
                at = token(bytes, at)?;
                match bytes[at] {
                    b',' => break,
                    byte if byte == closing(open & 1 == 1) => {}
                    _ => return None,
                }
            }
            at += 1;
            open >>= 1;
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
        (at, is_empty) = (at + 1, false);
    }
}

fn begins(records_at: &[Vec<String>], key: &[u8]) -> bool {
    records_at.iter().any(|way| way.first().is_some_and(|first| first.as_bytes() == key))
}

fn closing(is_object: bool) -> u8 {
    if is_object { b'}' } else { b']' }
}

/// The next byte that is no white space.
fn token(bytes: &[u8], mut at: usize) -> Option<usize> {
    while matches!(bytes.get(at)?, b' ' | b'\t' | b'\n' | b'\r') {
        at += 1;
    }
    Some(at)
}

/// Behind the string that begins here.
fn string(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes[at] != b'"' {
        return None;
    }
    let mut at = at + 1;
    loop {
        at = find_special(bytes, at)?;
        match bytes[at] {
            b'"' => return Some(at + 1),
            b'\\' if *bytes.get(at + 1)? >= b' ' => at += 2,
            _ => return None,
        }
    }
}

/// Behind a number or a word, rightly spelled or not.
fn literal(bytes: &[u8], start: usize) -> Option<usize> {
    let length =
        bytes.get(start..)?.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'+' | b'.'))?;
    (length > 0).then_some(start + length)
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Scan, Scanned};
    use super::*;

    /// Whatever ends here ends there for the scan.
    #[test]
    fn the_scan_says_the_same() {
        const PIECES: [&str; 22] = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\"a\"",
            "\"a\":",
            "\"result\":",
            "1",
            "-",
            "tru",
            " ",
            "\n",
            "\u{1}",
            "é",
            "{}",
            "[]",
            "\\\"",
            "null",
        ];
        let ways = [vec!["result".to_owned()]];
        let (mut seed, mut ended) = (0x2545_f491_4f6c_dd1d_u64, 0);
        for _ in 0..200_000 {
            let mut text = String::from("{");
            for _ in 0..14 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                text.push_str(PIECES[(seed % PIECES.len() as u64) as usize]);
            }
            for (ways, envelope) in [(&ways[..], true), (&[][..], false)] {
                if let Some(end) = sound_object(text.as_bytes(), 0, ways) {
                    ended += 1;
                    let mut scan = Scan::new(0, envelope, usize::MAX);
                    assert_eq!((scan.run(text.as_bytes(), ways), scan.at), (Scanned::Done, end), "{text}");
                }
            }
        }
        assert!(ended > 1000, "{ended}");
    }

    #[test]
    fn what_may_be_an_envelope_does_not_end() {
        let ways = [vec!["result".to_owned(), "data".to_owned()]];
        assert_eq!(sound_object(br#"{"result":{"data":[]}}"#, 0, &ways), None);
        assert_eq!(sound_object(br#"{"a":{"result":{}}}"#, 0, &ways), Some(19));
    }

    #[test]
    fn whole_objects_end_where_they_close_and_nothing_else_ends() {
        for sound in [r"{}", r#"{"a":[1,{"b":"}\""},[]], "c" : null }"#, "{ \"a\" :\n{ } }", r#"{"a":truth}"#] {
            assert_eq!(sound_object(format!("{sound},x").as_bytes(), 0, &[]), Some(sound.len()), "{sound}");
            for cut in 0..sound.len() {
                assert_eq!(sound_object(&sound.as_bytes()[..cut], 0, &[]), None, "{sound} cut at {cut}");
            }
        }
        for flawed in [r#"{"a" 1}"#, r#"{"a":}"#, r#"{"a":1,}"#, r#"{"a":[1,]}"#, r#"{"a":[}]"#, "{\"a\nb\":1}", r"{a:1}", r#"{"a":1 2}"#] {
            assert_eq!(sound_object(format!("{flawed} {{\"b\":1}}").as_bytes(), 0, &[]), None, "{flawed}");
        }
    }
}
