//! The end of an object that is a line, sixty-four bytes at a time.
//!
//! Where an object's brackets balance just before the line feed that ends its line, its end is its record's, whether its punctuation is
//! sound or not: a sound one ends there for the scan, and damage that a line holds is that line ([`super::border::balanced_line`]). So
//! nothing but brackets, quotes and line feeds need be looked at; what stands between them is the decoder's to judge.

use std::ops::Range;

use memchr::memmem::Finder;

use super::LOOK_AHEAD;

const BLOCK: usize = 64;
/// Open brackets of an object; of more the scan is asked.
const DEPTH: u32 = 64;

/// Where names stand with which a way of `records_at` begins: an object that has one may be an envelope.
pub(super) struct Ways {
    /// The names in their quotes.
    names: Vec<Finder<'static>>,
    /// Decoded offset of the next one, as far as it was searched.
    next: u64,
}

impl Ways {
    pub(super) fn of(records_at: &[Vec<String>]) -> Self {
        let firsts = records_at.iter().filter_map(|way| way.first());
        Self { names: firsts.map(|first| Finder::new(&format!("\"{first}\"")).into_owned()).collect(), next: 0 }
    }

    /// Whether one stands between these places of the buffer, which begins at the decoded offset `base`.
    pub(super) fn between(&mut self, buffer: &[u8], base: u64, range: Range<usize>) -> bool {
        let (start, end) = (base + range.start as u64, base + range.end as u64);
        if (start..end).contains(&self.next) || self.next < start {
            let found = self.names.iter().filter_map(|name| name.find(&buffer[range.start..])).min();
            // Where none begins, one may that is not yet there as a whole.
            let longest = self.names.iter().map(|name| name.needle().len()).max().unwrap_or(1);
            let none = (buffer.len() - range.start).saturating_sub(longest - 1);
            self.next = start + found.unwrap_or(none) as u64;
            return found.is_some_and(|found| found < range.len());
        }
        false
    }
}

/// Where bytes of a kind stand in a block, a bit for each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Marks {
    quotes: u64,
    backslashes: u64,
    line_feeds: u64,
    opening: u64,
    closing: u64,
    /// Of the brackets those of objects.
    braces: u64,
}

/// `None` where the object is no line of its own, or anything is unusual: others are to be asked.
pub(super) fn object_of_a_line(bytes: &[u8], start: usize, limit: usize) -> Option<usize> {
    let (mut open, mut depth) = (0_u64, 0);
    // All ones within a string; a bit where the block before ended in a backslash that escapes.
    let (mut in_string, mut escaped) = (0_u64, 0);
    // A line feed behind it is seen from wherever damage shows.
    let limit = limit.min(LOOK_AHEAD - 2);
    let mut at = start;
    while at < bytes.len() && at - start < limit {
        let marks = marks(bytes, at);
        let escapes = if marks.backslashes | escaped == 0 { 0 } else { escapes(marks.backslashes, &mut escaped) };
        let quotes = marks.quotes & !escapes;
        let strings = within(quotes) ^ in_string;
        in_string = 0_u64.wrapping_sub(strings >> 63);
        // Behind the end of the object anything may stand; before it no escape but in a string, and no line feed.
        let odd = (marks.backslashes & !strings) | marks.line_feeds;
        let mut brackets = (marks.opening | marks.closing) & !strings;
        while brackets != 0 {
            let bit = brackets & brackets.wrapping_neg();
            brackets &= brackets - 1;
            let brace = u64::from(marks.braces & bit != 0);
            if marks.opening & bit != 0 {
                if depth == DEPTH {
                    return None;
                }
                open = open << 1 | brace;
                depth += 1;
                continue;
            }
            if open & 1 != brace {
                return None;
            }
            open >>= 1;
            depth -= 1;
            if depth == 0 {
                let end = at + bit.trailing_zeros() as usize + 1;
                let sound = odd & (bit - 1) == 0 && end - start <= limit;
                return (sound && ends_line(bytes, end)).then_some(end);
            }
        }
        if odd != 0 {
            return None;
        }
        at += BLOCK;
    }
    None
}

fn ends_line(bytes: &[u8], end: usize) -> bool {
    match bytes.get(end) {
        Some(b'\n') => true,
        Some(b'\r') => bytes.get(end + 1) == Some(&b'\n'),
        _ => false,
    }
}

/// The bits from each odd quote up to the even one behind it, which is not among them.
fn within(quotes: u64) -> u64 {
    let mut parity = quotes;
    for shift in [1, 2, 4, 8, 16, 32] {
        parity ^= parity << shift;
    }
    parity
}

/// The bytes that a backslash stands before which is not escaped itself; `carried` from block to block.
fn escapes(backslashes: u64, carried: &mut u64) -> u64 {
    let mut escaped = *carried;
    let mut left = backslashes & !escaped;
    *carried = 0;
    while left != 0 {
        let bit = left & left.wrapping_neg();
        *carried = bit >> 63;
        escaped |= bit << 1;
        left &= !(bit | bit << 1);
    }
    escaped
}

/// Behind the last byte there is nothing.
fn marks(bytes: &[u8], at: usize) -> Marks {
    if let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<BLOCK>) {
        return marks_of(block);
    }
    let mut block = [0; BLOCK];
    let rest = bytes.get(at..).unwrap_or_default();
    block[..rest.len()].copy_from_slice(rest);
    marks_of(&block)
}

#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "SSE2's compare and gather are not to be had otherwise; measured against the byte-wise scan in docs/performance.md"
)]
fn marks_of(block: &[u8; BLOCK]) -> Marks {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8, _mm_slli_epi16};
    let mut marks = Marks::default();
    for (lane, sixteen) in block.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: every x86-64 processor has SSE2, and sixteen bytes are read where sixteen bytes are; the load needs no alignment.
        unsafe {
            let bytes = _mm_loadu_si128(sixteen.as_ptr().cast());
            let gather = |found| u64::from(_mm_movemask_epi8(found).cast_unsigned()) << (lane * 16);
            let are = |byte: u8| gather(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte.cast_signed())));
            // `[` and `{`, `]` and `}` differ in this bit.
            let folded = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
            let folded_are = |byte: u8| gather(_mm_cmpeq_epi8(folded, _mm_set1_epi8(byte.cast_signed())));
            marks.quotes |= are(b'"');
            marks.backslashes |= are(b'\\');
            marks.line_feeds |= are(b'\n');
            marks.opening |= folded_are(b'{');
            marks.closing |= folded_are(b'}');
            // That bit is the third from above, and those that are gathered are the highest.
            marks.braces |= gather(_mm_slli_epi16::<2>(bytes));
        }
    }
    marks
}

#[cfg(not(target_arch = "x86_64"))]
fn marks_of(block: &[u8; BLOCK]) -> Marks {
    portable(block)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn portable(block: &[u8; BLOCK]) -> Marks {
    let mut marks = Marks::default();
    for (at, byte) in block.iter().enumerate() {
        let bit = 1 << at;
        match byte {
            b'"' => marks.quotes |= bit,
            b'\\' => marks.backslashes |= bit,
            b'\n' => marks.line_feeds |= bit,
            b'{' | b'[' => marks.opening |= bit,
            b'}' | b']' => marks.closing |= bit,
            _ => {}
        }
        if byte & 0x20 != 0 {
            marks.braces |= bit;
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::super::border::balanced_line;
    use super::super::scan::{Scan, Scanned};
    use super::*;

    struct Xorshift(u64);

    impl Xorshift {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % end as u64) as usize
        }
    }

    /// Where a line ends for this it ends for the scan, or for what is asked where the scan stumbles.
    #[test]
    fn the_scan_and_what_is_asked_after_it_say_the_same() {
        const PIECES: [&str; 24] = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\\\\",
            "\\\"",
            "\"a\"",
            "\"a\":",
            "{}",
            "[]",
            "1",
            "tru",
            " ",
            "\r",
            "\n",
            "}\n",
            "\u{1}",
            "é",
            "a long piece that is no punctuation and fills a block of bytes by itself",
            "null",
        ];
        let (mut random, mut sound, mut damaged) = (Xorshift(0x2545_f491_4f6c_dd1d), 0, 0);
        for round in 0..400_000 {
            let mut text = "{".to_owned();
            for _ in 0..random.below(16) {
                text.push_str(PIECES[random.below(PIECES.len())]);
            }
            text.push_str(["}\n", "]}\r\n", "\"}\n{", "}"][round % 4]);
            let Some(end) = object_of_a_line(text.as_bytes(), 0, usize::MAX) else { continue };
            let mut scan = Scan::new(0, false, usize::MAX);
            match scan.run(text.as_bytes(), &[]) {
                Scanned::Done => {
                    sound += 1;
                    assert_eq!(scan.at, end, "{text:?}");
                }
                Scanned::Violation => {
                    damaged += 1;
                    assert_eq!(balanced_line(text.as_bytes(), 0, scan.at), Some(end), "{text:?}");
                }
                other => panic!("{other:?} of {text:?}"),
            }
        }
        assert!(sound > 1000 && damaged > 1000, "{sound} sound, {damaged} damaged");
    }

    #[test]
    fn a_line_ends_where_its_object_does_wherever_blocks_do() {
        for length in 0..300 {
            let text = format!("{{\"a\":[{{\"b\":\"}}\\\\\\\"{}\\\\\"}},[]],\"c\":\"]\"}}", "x".repeat(length));
            for (behind, is_line) in [("\n", true), ("\r\n{", true), ("", false), ("\r", false), (",\n", false), ("}\n", false)] {
                let expected = is_line.then_some(text.len());
                assert_eq!(object_of_a_line(format!("{text}{behind}").as_bytes(), 0, usize::MAX), expected, "{text}{behind}");
            }
            assert_eq!(object_of_a_line(format!("{text}\n").as_bytes(), 0, text.len()), Some(text.len()));
            assert_eq!(object_of_a_line(format!("{text}\n").as_bytes(), 0, text.len() - 1), None);
        }
    }

    #[test]
    fn names_of_envelopes_are_found_wherever_buffers_begin_and_end() {
        let ways = [vec!["result".to_owned(), "data".to_owned()], vec!["r".to_owned()]];
        let mut random = Xorshift(0x51f1_5eed);
        for _ in 0..2_000 {
            let pieces: Vec<&str> =
                (0..random.below(40)).map(|_| ["\"result\"", "\"r\"", "\"re", "sult\"", "x"][random.below(5)]).collect();
            let text = pieces.concat().into_bytes();
            let (mut names, mut base, mut at) = (Ways::of(&ways), 0, 0);
            while at < text.len() {
                let end = (at + 1 + random.below(12)).min(text.len());
                let buffer_end = (end + random.below(12)).min(text.len());
                let expected = ["\"result\"", "\"r\""].iter().any(|name| {
                    text[base..buffer_end]
                        .windows(name.len())
                        .enumerate()
                        .any(|(found, window)| (at..end).contains(&(base + found)) && window == name.as_bytes())
                });
                assert_eq!(
                    names.between(&text[base..buffer_end], base as u64, at - base..end - base),
                    expected,
                    "{at}..{end} of {pieces:?}"
                );
                at = end;
                base += random.below(at - base + 1);
            }
        }
        assert!(!Ways::of(&[]).between(b"{\"r\":1}", 0, 0..7));
    }

    #[test]
    fn what_is_unusual_is_left() {
        let deep = |depth: usize| format!("{{\"a\":{}{}}}\n", "[".repeat(depth), "]".repeat(depth));
        assert!(object_of_a_line(deep(63).as_bytes(), 0, usize::MAX).is_some());
        let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(LOOK_AHEAD));
        for text in [&deep(64), &long, "{\n}\n", "{\"a\":[}]}\n", "{\"a\":\\}\n", "{\"a\":\"\n\"}\n", "{\"a\":1}\n"] {
            let is_usual = text == "{\"a\":1}\n";
            assert_eq!(object_of_a_line(text.as_bytes(), 0, usize::MAX).is_some(), is_usual, "{text}");
        }
    }

    #[test]
    fn marks_are_the_same_however_they_are_found() {
        let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
        for _ in 0..10_000 {
            let mut block = [0; BLOCK];
            block.fill_with(|| if random.below(2) == 0 { b"\"\\\n{}[]"[random.below(7)] } else { random.below(256) as u8 });
            assert_eq!(marks_of(&block), portable(&block));
        }
    }
}
