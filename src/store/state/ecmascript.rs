//! The translation of ECMAScript's regular expressions into the syntax of the `regex` crate.
//!
//! Read as without flags, old escapes and lenient braces included. Every character that stands for itself is written
//! so that the other syntax cannot see anything special in it.

use std::fmt::Write;

const DIGIT: &str = "[0-9]";
const NO_DIGIT: &str = "[^0-9]";
const WORD: &str = "[0-9A-Za-z_]";
const NO_WORD: &str = "[^0-9A-Za-z_]";
const SPACE: &str = r"[\t-\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}]";
const NO_SPACE: &str = r"[^\t-\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}]";
const NO_LINE_END: &str = r"[^\n\r\x{2028}\x{2029}]";
const ANYTHING: &str = r"[\x{0}-\x{10FFFF}]";
const NOTHING: &str = r"[^\x{0}-\x{10FFFF}]";

/// The pattern in the syntax of the `regex` crate.
pub(super) fn translate(source: &str) -> Result<String, String> {
    let mut translator = Translator {
        rest: source,
        out: String::with_capacity(source.len() + 16),
        open_groups: 0,
        repeatable: false,
    };
    while let Some(char) = translator.next() {
        translator.translate(char)?;
    }
    if translator.open_groups > 0 {
        Err("unclosed group".to_owned())
    } else {
        Ok(translator.out)
    }
}

/// What one escape or one place in a character class stands for.
enum Atom {
    /// One character.
    Char(char),
    /// One of several characters, as a class of the `regex` crate.
    Class(String),
}

impl Atom {
    fn push_to(&self, out: &mut String) {
        match self {
            Self::Char(char) => push_literal(out, *char),
            Self::Class(class) => out.push_str(class),
        }
    }
}

/// Appends a character so that it stands for itself, inside and outside of classes.
fn push_literal(out: &mut String, char: char) {
    if char.is_ascii_alphanumeric() || !char.is_ascii() {
        out.push(char);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{{{:X}}}", u32::from(char));
    }
}

struct Translator<'a> {
    rest: &'a str,
    out: String,
    open_groups: usize,
    /// Whether a quantifier may follow.
    repeatable: bool,
}

impl Translator<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    /// Steps over a text, where it comes next.
    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn translate(&mut self, char: char) -> Result<(), String> {
        match char {
            '\\' => self.escape(),
            '[' => self.class(),
            '(' => self.open_group(),
            ')' => self.close_group(),
            '*' | '+' | '?' => self.repeat(&char.to_string()),
            '{' => self.brace(),
            '|' | '^' | '$' => {
                self.out.push(char);
                self.repeatable = false;
                Ok(())
            }
            '.' => {
                self.push(&Atom::Class(NO_LINE_END.to_owned()));
                Ok(())
            }
            char => {
                self.push(&Atom::Char(char));
                Ok(())
            }
        }
    }

    fn push(&mut self, atom: &Atom) {
        atom.push_to(&mut self.out);
        self.repeatable = true;
    }

    fn open_group(&mut self) -> Result<(), String> {
        if self.eat("?=") || self.eat("?!") {
            return Err("look-ahead is not supported: patterns are matched in linear time".to_owned());
        }
        if self.eat("?<=") || self.eat("?<!") {
            return Err("look-behind is not supported: patterns are matched in linear time".to_owned());
        }
        if self.eat("?<") {
            self.group_name()?;
        } else if !self.eat("?:") && self.rest.starts_with('?') {
            return Err("unknown kind of group".to_owned());
        }
        // Nothing is captured: a pattern is found or not.
        self.out.push_str("(?:");
        self.open_groups += 1;
        self.repeatable = false;
        Ok(())
    }

    fn group_name(&mut self) -> Result<(), String> {
        let (name, rest) = self.rest.split_once('>').ok_or("unclosed group name")?;
        let is_part = |char: char| char.is_alphanumeric() || char == '_' || char == '$';
        if name.is_empty() || name.starts_with(|char: char| char.is_numeric()) || !name.chars().all(is_part) {
            return Err("invalid group name".to_owned());
        }
        self.rest = rest;
        Ok(())
    }

    fn close_group(&mut self) -> Result<(), String> {
        self.open_groups = self.open_groups.checked_sub(1).ok_or("unmatched \")\"")?;
        self.out.push(')');
        self.repeatable = true;
        Ok(())
    }

    fn repeat(&mut self, quantifier: &str) -> Result<(), String> {
        if !self.repeatable {
            return Err("nothing to repeat".to_owned());
        }
        self.out.push_str(quantifier);
        if self.eat("?") {
            self.out.push('?');
        }
        self.repeatable = false;
        Ok(())
    }

    /// A quantifier such as `{2,5}`; any other brace stands for itself.
    fn brace(&mut self) -> Result<(), String> {
        let Some((low, high, rest)) = split_quantifier(self.rest) else {
            self.push(&Atom::Char('{'));
            return Ok(());
        };
        let parse = |digits: &str| digits.parse::<u32>().map_err(|_| "repetition count too large".to_owned());
        let quantifier = match (parse(low)?, high) {
            (low, None) => format!("{{{low}}}"),
            (low, Some("")) => format!("{{{low},}}"),
            (low, Some(high)) => {
                let high = parse(high)?;
                if high < low {
                    return Err("numbers out of order in a quantifier".to_owned());
                }
                format!("{{{low},{high}}}")
            }
        };
        self.rest = rest;
        self.repeat(&quantifier)
    }

    fn escape(&mut self) -> Result<(), String> {
        match self.next().ok_or("a backslash at the end")? {
            boundary @ ('b' | 'B') => {
                // ECMAScript's word characters are those of ASCII.
                let _ = write!(self.out, "(?-u:\\{boundary})");
                self.repeatable = false;
                Ok(())
            }
            '1'..='9' | 'k' => Err("back-references are not supported: patterns are matched in linear time".to_owned()),
            char => {
                let atom = self.character_escape(char)?;
                self.push(&atom);
                Ok(())
            }
        }
    }

    /// An escape that means the same inside and outside of classes; `char` follows the backslash.
    fn character_escape(&mut self, char: char) -> Result<Atom, String> {
        let class = |class: &str| Ok(Atom::Class(class.to_owned()));
        match char {
            'd' => class(DIGIT),
            'D' => class(NO_DIGIT),
            'w' => class(WORD),
            'W' => class(NO_WORD),
            's' => class(SPACE),
            'S' => class(NO_SPACE),
            'p' | 'P' if self.eat("{") => self.unicode_property(char),
            't' => Ok(Atom::Char('\t')),
            'n' => Ok(Atom::Char('\n')),
            'v' => Ok(Atom::Char('\u{B}')),
            'f' => Ok(Atom::Char('\u{C}')),
            'r' => Ok(Atom::Char('\r')),
            'c' => self.control(),
            'x' => Ok(Atom::Char(self.hex(2).and_then(char::from_u32).unwrap_or('x'))),
            'u' => self.unicode_escape(),
            '0'..='7' => Ok(Atom::Char(self.octal(char))),
            other => Ok(Atom::Char(other)),
        }
    }

    fn unicode_property(&mut self, kind: char) -> Result<Atom, String> {
        let (name, rest) = self.rest.split_once('}').ok_or("unclosed property name")?;
        if !name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_' || char == '=') {
            return Err("invalid property name".to_owned());
        }
        self.rest = rest;
        Ok(Atom::Class(format!("\\{kind}{{{name}}}")))
    }

    fn control(&mut self) -> Result<Atom, String> {
        match self.next() {
            Some(letter) if letter.is_ascii_alphabetic() => Ok(Atom::Char(char::from(letter as u8 % 32))),
            _ => Err("\\c must be followed by a letter".to_owned()),
        }
    }

    /// `\u0041`, `\u{1F600}` or a surrogate pair `\uD83D\uDE00`; anything else is the letter itself.
    fn unicode_escape(&mut self) -> Result<Atom, String> {
        if let Some((digits, rest)) = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            let code = u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
            self.rest = rest;
            return code
                .and_then(char::from_u32)
                .map(Atom::Char)
                .ok_or_else(|| "invalid code point".to_owned());
        }
        let lone = || "a lone surrogate is in no text".to_owned();
        match self.hex(4) {
            None => Ok(Atom::Char('u')),
            Some(high @ 0xD800..=0xDBFF) => {
                let low = if self.eat("\\u") { self.hex(4) } else { None };
                let low = low.filter(|low| (0xDC00..=0xDFFF).contains(low)).ok_or_else(lone)?;
                char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00))
                    .map(Atom::Char)
                    .ok_or_else(lone)
            }
            Some(unit) => char::from_u32(unit).map(Atom::Char).ok_or_else(lone),
        }
    }

    /// Exactly so many hexadecimal digits, or nothing.
    fn hex(&mut self, digits: usize) -> Option<u32> {
        let (hex, rest) = self.rest.split_at_checked(digits)?;
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.rest = rest;
        u32::from_str_radix(hex, 16).ok()
    }

    /// `\0`, and the octal escapes that ECMAScript keeps for old pages: at most `\377`.
    fn octal(&mut self, first: char) -> char {
        let mut code = first as u8 - b'0';
        let longest = if first <= '3' { 2 } else { 1 };
        for _ in 0..longest {
            let Some(digit @ b'0'..=b'7') = self.rest.bytes().next() else {
                break;
            };
            code = code * 8 + (digit - b'0');
            self.next();
        }
        char::from(code)
    }

    fn class(&mut self) -> Result<(), String> {
        let negated = self.eat("^");
        let mut body = String::new();
        loop {
            let low = match self.class_char()? {
                ']' => break,
                char => self.class_atom(char)?,
            };
            if self.rest.starts_with("-]") || !self.eat("-") {
                low.push_to(&mut body);
                continue;
            }
            let char = self.class_char()?;
            push_range(&mut body, &low, &self.class_atom(char)?)?;
        }
        match (body.is_empty(), negated) {
            (true, true) => self.out.push_str(ANYTHING),
            (true, false) => self.out.push_str(NOTHING),
            (false, _) => {
                self.out.push_str(if negated { "[^" } else { "[" });
                self.out.push_str(&body);
                self.out.push(']');
            }
        }
        self.repeatable = true;
        Ok(())
    }

    fn class_char(&mut self) -> Result<char, String> {
        self.next().ok_or_else(|| "unclosed character class".to_owned())
    }

    fn class_atom(&mut self, char: char) -> Result<Atom, String> {
        if char != '\\' {
            return Ok(Atom::Char(char));
        }
        match self.class_char()? {
            'b' => Ok(Atom::Char('\u{8}')),
            char => self.character_escape(char),
        }
    }
}

/// Appends `low-high`; a hyphen beside a class such as `\d` stands for itself.
fn push_range(body: &mut String, low: &Atom, high: &Atom) -> Result<(), String> {
    let is_range = matches!((low, high), (Atom::Char(_), Atom::Char(_)));
    if let (Atom::Char(low), Atom::Char(high)) = (low, high)
        && low > high
    {
        return Err("range out of order in a character class".to_owned());
    }
    low.push_to(body);
    body.push_str(if is_range { "-" } else { "\\-" });
    high.push_to(body);
    Ok(())
}

/// The numbers of a quantifier and what follows it: `2}…`, `2,}…` and `2,5}…`.
fn split_quantifier(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let (inner, rest) = text.split_once('}')?;
    let (low, high) = inner.split_once(',').map_or((inner, None), |(low, high)| (low, Some(high)));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (!low.is_empty() && digits(low) && high.is_none_or(digits)).then_some((low, high, rest))
}
