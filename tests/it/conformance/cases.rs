//! The table. Names begin with the numbers of the Autobahn cases that a row stands for.

use super::wire::{
    BINARY, CLOSE, CONTINUATION, PING, PONG, Part, TEXT, announcement, close, fragments, frame, frame_with_reserved_bits, ping, pong, text,
    unmasked_frame,
};
use super::{Case, Cut, End, PAYLOAD_MAX};

const PROTOCOL: Option<u16> = Some(1002);
const BINARY_NOT_SUPPORTED: Option<u16> = Some(1003);
const NOT_UTF_8: Option<u16> = Some(1007);
const TOO_LARGE: Option<u16> = Some(1009);
const NORMAL: Option<u16> = Some(1000);

const NOT_JSON: &str = r#"{"id":0,"type":"error","code":"PARSE_ERROR","message":"Invalid JSON"}"#;

/// A case in which nothing comes back and the connection goes on.
fn case(name: impl Into<String>, frames: impl IntoIterator<Item = Vec<u8>>) -> Case {
    Case {
        name: name.into(),
        sent: frames.into_iter().flatten().collect(),
        cut: Cut::Whole,
        texts: Vec::new(),
        pongs: Vec::new(),
        end: End::Open,
    }
}

impl Case {
    fn answered(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        self.texts = texts.into_iter().collect();
        self
    }

    fn ponged(mut self, payloads: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.pongs = payloads.into_iter().collect();
        self
    }

    fn closed(mut self, code: Option<u16>) -> Self {
        self.end = End::Closed(code);
        self
    }

    fn cut_every(&self, size: usize) -> Self {
        Self {
            cut: Cut::Every(size),
            ..self.clone()
        }
    }

    /// This case as it is, and octet by octet.
    fn both_ways(self) -> [Self; 2] {
        let chopped = self.cut_every(1);
        [self, chopped]
    }
}

/// A request for an operation of this name, which there is not.
fn request(operation: &str) -> String {
    format!(r#"{{"id":1,"type":"{operation}"}}"#)
}

/// What it is answered with.
fn answer(operation: &str) -> String {
    format!(r#"{{"id":1,"type":"error","code":"UNKNOWN_OPERATION","message":"Unknown operation \"{operation}\""}}"#)
}

/// The name of an operation for which the request has this many bytes.
fn operation_for(request_bytes: usize) -> String {
    let unit = "aBcDeFgH";
    let length = request_bytes - request("").len();
    unit.repeat(length / unit.len() + 1)[..length].to_owned()
}

/// Cases 1.1 and 1.2.
pub fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(case("1.1.1 an empty text", [text("")]).answered([NOT_JSON.to_owned()]).both_ways());
    for length in [125, 126, 127, 128, 65_535, 65_536] {
        let operation = operation_for(length);
        let payload = request(&operation);
        assert_eq!(payload.len(), length);
        let whole = case(format!("1.1 a text of {length} bytes"), [text(payload)]).answered([answer(&operation)]);
        cases.push(whole.cut_every(997));
        cases.extend(whole.both_ways());
    }
    for length in [0, 125, 126, 127, 128, 65_535, 65_536] {
        let binary = frame(BINARY, Part::Last, &vec![0xFE; length]);
        let whole = case(format!("1.2 {length} binary bytes"), [binary]).closed(BINARY_NOT_SUPPORTED);
        cases.push(whole.cut_every(997));
        cases.push(whole);
    }
    cases
}

/// Cases 2.
pub fn pings() -> Vec<Case> {
    let mut cases = Vec::new();
    let payloads: [&[u8]; 5] = [b"", b"hello", &[0x00, 0xFF, 0xFE, 0xFD, 0x00, 0xFF], &[0xFE; 124], &[0xFE; 125]];
    for payload in payloads {
        let ping = case(format!("2.1-2.4, 2.6 a ping of {} bytes", payload.len()), [ping(payload)]);
        cases.extend(ping.ponged([payload.to_vec()]).both_ways());
        let pong = case(format!("2.7, 2.8 an unsolicited pong of {} bytes", payload.len()), [pong(payload)]);
        cases.extend(pong.both_ways());
    }
    for (name, opcode) in [("ping", PING), ("pong", PONG)] {
        let too_long = frame(opcode, Part::Last, &[0xFE; 126]);
        cases.extend(case(format!("2.5 a {name} of 126 bytes"), [too_long]).closed(PROTOCOL).both_ways());
    }
    let after_a_pong = [pong(b"unsolicited"), ping(b"asked for")];
    cases.extend(
        case("2.9 a pong, then a ping", after_a_pong)
            .ponged([b"asked for".to_vec()])
            .both_ways(),
    );
    let payloads: Vec<Vec<u8>> = (0..10).map(|at| format!("ping {at}").into_bytes()).collect();
    let ten = case("2.10, 2.11 ten pings", payloads.iter().map(|payload| ping(payload)));
    cases.extend(ten.ponged(payloads).both_ways());
    cases
}

/// Cases 3 and 4, and frames that only servers may send.
pub fn reserved() -> Vec<Case> {
    let mut cases = Vec::new();
    let payload = request("hello");
    for bits in 1..=7 {
        let alone = case(
            format!("3 reserved bits {bits:03b}"),
            [frame_with_reserved_bits(TEXT, bits, payload.as_bytes())],
        );
        cases.extend(alone.closed(PROTOCOL).both_ways());
        for (name, opcode) in [("binary", BINARY), ("ping", PING), ("pong", PONG), ("close", CLOSE)] {
            let control = frame_with_reserved_bits(opcode, bits, b"");
            cases.push(case(format!("3 reserved bits {bits:03b} on a {name} frame"), [control]).closed(PROTOCOL));
        }
        let later = [
            text(&payload),
            frame_with_reserved_bits(TEXT, bits, payload.as_bytes()),
            ping(b"not any more"),
        ];
        let later = case(format!("3 reserved bits {bits:03b} after a sound message"), later);
        cases.extend(later.answered([answer("hello")]).closed(PROTOCOL).both_ways());
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        for payload in [&b""[..], b"hello"] {
            let unknown = frame(opcode, Part::Last, payload);
            let name = format!("4 opcode {opcode} with {} bytes", payload.len());
            cases.extend(case(name, [unknown]).closed(PROTOCOL).both_ways());
        }
        let later = [text(&payload), frame(opcode, Part::Last, b"hello"), ping(b"not any more")];
        let later = case(format!("4 opcode {opcode} after a sound message"), later);
        cases.extend(later.answered([answer("hello")]).closed(PROTOCOL).both_ways());
    }
    for (name, opcode) in [("text", TEXT), ("ping", PING), ("close", CLOSE)] {
        let unmasked = unmasked_frame(opcode, b"");
        cases.extend(case(format!("an unmasked {name} frame"), [unmasked]).closed(PROTOCOL).both_ways());
    }
    cases.push(case("an unmasked request", [unmasked_frame(TEXT, payload.as_bytes())]).closed(PROTOCOL));
    cases
}

/// Cases 5.
pub fn fragmentation() -> Vec<Case> {
    let payload = request("fragmented");
    let (first, second) = payload.as_bytes().split_at(17);
    let halves = fragments([first, second]);
    let answered = || [answer("fragmented")];
    let nothing_to_continue = |part| frame(CONTINUATION, part, b"nothing to continue");
    let mut cases = Vec::new();
    for (number, name, opcode) in [("5.1", "ping", PING), ("5.2", "pong", PONG), ("a", "close", CLOSE)] {
        let parts = [frame(opcode, Part::More, b""), frame(CONTINUATION, Part::Last, b"")];
        cases.extend(case(format!("{number} a {name} in two frames"), parts).closed(PROTOCOL).both_ways());
    }
    cases.extend(case("5.3-5.5 two frames", halves.clone()).answered(answered()).both_ways());

    let with_ping = [halves[0].clone(), ping(b"between"), halves[1].clone()];
    let with_ping = case("5.6-5.8 a ping between two frames", with_ping).answered(answered());
    cases.extend(with_ping.ponged([b"between".to_vec()]).both_ways());

    for (name, part) in [("5.9-5.11 a last frame", Part::Last), ("5.12-5.14 a frame", Part::More)] {
        let stray = [nothing_to_continue(part), text(&payload)];
        cases.extend(case(format!("{name} that continues nothing"), stray).closed(PROTOCOL).both_ways());
    }
    for (name, part) in [("5.15", Part::More), ("a last one", Part::Last)] {
        let sent = [halves[0].clone(), halves[1].clone(), nothing_to_continue(part), text(&payload)];
        let stray = case(format!("{name} after two frames, a third that continues nothing"), sent);
        cases.extend(stray.answered(answered()).closed(PROTOCOL).both_ways());
    }
    for (name, part) in [("5.16", Part::More), ("5.17", Part::Last)] {
        let round = [nothing_to_continue(part), halves[0].clone(), halves[1].clone()];
        let stray = case(
            format!("{name} frames that continue nothing before each message"),
            [round.clone(), round].concat(),
        );
        cases.extend(stray.closed(PROTOCOL).both_ways());
    }
    for (name, opcode) in [("5.18 a text", TEXT), ("a binary", BINARY)] {
        let second = frame(opcode, Part::Last, second);
        let sent = [halves[0].clone(), second];
        cases.extend(
            case(format!("{name} frame while a message is open"), sent)
                .closed(PROTOCOL)
                .both_ways(),
        );
    }
    cases.extend(many_fragments());
    cases
}

/// Cases 5.19 and 5.20: five frames with pings between them; and a message of frames of one byte each.
fn many_fragments() -> Vec<Case> {
    let payload = request("in-five-frames");
    let five = fragments(payload.as_bytes().chunks(payload.len().div_ceil(5)));
    assert_eq!(five.len(), 5);
    let pings: Vec<Vec<u8>> = (0..4).map(|at| format!("ping {at}").into_bytes()).collect();
    let mut sent = Vec::new();
    for (at, part) in five.into_iter().enumerate() {
        sent.push(part);
        sent.extend(pings.get(at).map(|payload| ping(payload)));
    }
    sent.extend([pong(b"unsolicited"), text(request("next"))]);
    let five = case("5.19, 5.20 five frames with pings between them", sent);
    let singles = fragments(payload.as_bytes().chunks(1));
    let binary = [frame(BINARY, Part::More, b"{"), frame(CONTINUATION, Part::Last, b"}")];
    let mut cases = Vec::from(five.answered([answer("in-five-frames"), answer("next")]).ponged(pings).both_ways());
    cases.extend(
        case("a frame for every byte", singles)
            .answered([answer("in-five-frames")])
            .both_ways(),
    );
    cases.extend(
        case("a binary message in two frames", binary)
            .closed(BINARY_NOT_SUPPORTED)
            .both_ways(),
    );
    cases
}

/// Texts that are UTF-8: the first and last code point of each length, those around the surrogates, non-characters.
const VALID: &[&str] = &[
    "κόσμε",
    "Hello-µ@ßöäüàá-UTF-8!!",
    " ~\u{7f}",
    "\u{80}\u{7ff}",
    "\u{800}\u{ffff}",
    "\u{10000}\u{10ffff}",
    "\u{d7ff}\u{e000}",
    "\u{fffd}\u{feff}",
    "\u{fdd0}\u{fffe}\u{1ffff}\u{10fffe}",
    "\u{300a}\u{1f680}\u{1f469}\u{200d}\u{1f52c}",
];

/// Bytes that are not UTF-8, in the order of the cases 6.3 to 6.23.
const INVALID: &[(&str, &[u8])] = &[
    (
        "6.3 a surrogate between sound text",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    ),
    ("6.4 a code point beyond the last", b"\xce\xba\xf4\x90\x80\x80edited"),
    ("6.6 the first byte of two", b"\xce"),
    ("6.6 a code point that lacks its end", b"\xce\xba\xe1\xbd"),
    ("6.8 five bytes", b"\xf8\x88\x80\x80\x80"),
    ("6.8 six bytes", b"\xfc\x84\x80\x80\x80\x80"),
    ("6.10 the last of four bytes", b"\xf7\xbf\xbf\xbf"),
    ("6.10 the last of five bytes", b"\xfb\xbf\xbf\xbf\xbf"),
    ("6.10 the last of six bytes", b"\xfd\xbf\xbf\xbf\xbf\xbf"),
    ("6.11 the first beyond the last", b"\xf4\x90\x80\x80"),
    ("6.12 a continuation byte", b"\x80"),
    ("6.12 another continuation byte", b"\xbf"),
    ("6.12 continuation bytes", b"\x80\xbf\x80\xbf\x80\xbf\x80"),
    ("6.13 first bytes of two", b"\xc3 \xc4 \xdf "),
    ("6.13 first bytes of three", b"\xe0 \xe1 \xef "),
    ("6.13 first bytes of four", b"\xf0 \xf1 \xf4 "),
    ("6.14 two of three bytes", b"\xe2\x82"),
    ("6.14 three of four bytes", b"\xf0\x9f\x9a"),
    ("6.15 unfinished ones in a row", b"\xc3\xe2\x82\xf0\x9f\x9a"),
    ("6.16 a byte that is never used", b"\xfe"),
    ("6.16 the other", b"\xff"),
    ("6.16 both", b"\xfe\xfe\xff\xff"),
    ("6.17 a slash in two bytes", b"\xc0\xaf"),
    ("6.17 a slash in three bytes", b"\xe0\x80\xaf"),
    ("6.17 a slash in four bytes", b"\xf0\x80\x80\xaf"),
    ("6.18 the longest overlong of two bytes", b"\xc1\xbf"),
    ("6.18 of three bytes", b"\xe0\x9f\xbf"),
    ("6.18 of four bytes", b"\xf0\x8f\xbf\xbf"),
    ("6.19 zero in two bytes", b"\xc0\x80"),
    ("6.19 zero in three bytes", b"\xe0\x80\x80"),
    ("6.19 zero in four bytes", b"\xf0\x80\x80\x80"),
    ("6.20 the first high surrogate", b"\xed\xa0\x80"),
    ("6.20 the last high surrogate", b"\xed\xaf\xbf"),
    ("6.20 the first low surrogate", b"\xed\xb0\x80"),
    ("6.20 the last low surrogate", b"\xed\xbf\xbf"),
    ("6.21 a pair of surrogates", b"\xed\xa0\x80\xed\xb0\x80"),
    ("6.21 the last pair of surrogates", b"\xed\xaf\xbf\xed\xbf\xbf"),
];

/// Cases 6.
pub fn utf8() -> Vec<Case> {
    let mut cases = Vec::new();
    let empty = fragments([&b""[..], b"", b""]);
    cases.extend(case("6.1.2 three empty frames", empty).answered([NOT_JSON.to_owned()]).both_ways());
    let around = request("around");
    let middle = fragments([&b""[..], around.as_bytes(), b""]);
    cases.extend(
        case("6.1.3 empty frames around a full one", middle)
            .answered([answer("around")])
            .both_ways(),
    );
    for valid in VALID {
        let payload = request(valid);
        let answered = [answer(valid)];
        let whole = case(format!("6.2 {valid:?}"), [text(&payload)]).answered(answered.clone());
        cases.extend(whole.both_ways());
        for size in 1..=3 {
            let parts = case(
                format!("6.2 {valid:?} in frames of {size}"),
                fragments(payload.as_bytes().chunks(size)),
            );
            cases.extend(parts.answered(answered.clone()).both_ways());
        }
    }
    for (name, invalid) in INVALID {
        let payload = [br#"{"id":1,"type":""#, *invalid, br#""}"#].concat();
        let whole = case(format!("{name}, in a request"), [text(&payload)]).closed(NOT_UTF_8);
        cases.extend(whole.both_ways());
        let parts = case(format!("{name}, in a request in frames of 1"), fragments(payload.chunks(1)));
        cases.extend(parts.closed(NOT_UTF_8).both_ways());
        cases.extend(case(format!("{name}, alone"), [text(invalid)]).closed(NOT_UTF_8).both_ways());
        let parts = case(format!("{name}, alone in frames of 1"), fragments(invalid.chunks(1)));
        cases.push(parts.closed(NOT_UTF_8));
    }
    cases.extend(failing_fast());
    cases
}

/// Cases 6.4: the first bad byte is enough, whatever may follow. The suite leaves it open whether that is found within
/// a frame that is not all there; the end of a frame is soon enough.
fn failing_fast() -> Vec<Case> {
    let begun = frame(TEXT, Part::More, "{\"κόσμε".as_bytes());
    let bad = frame(CONTINUATION, Part::More, b"\xf4\x90\x80\x80");
    let impossible = frame(CONTINUATION, Part::More, b"\xf4\x90");
    let rest = frame(CONTINUATION, Part::Last, b"edited");
    let mut cases = Vec::new();
    cases.extend(
        case("6.4.1 a bad frame, and the rest never comes", [begun.clone(), bad.clone()])
            .closed(NOT_UTF_8)
            .both_ways(),
    );
    cases.extend(
        case("6.4.2 a bad beginning of a code point", [begun.clone(), impossible])
            .closed(NOT_UTF_8)
            .both_ways(),
    );
    cases.extend(
        case("6.4.3, 6.4.4 a bad frame, and the rest follows", [begun, bad, rest])
            .closed(NOT_UTF_8)
            .both_ways(),
    );
    cases
}

/// Cases 7.
pub fn closing() -> Vec<Case> {
    let normal = || close(&1000_u16.to_be_bytes());
    let payload = request("hello");
    let (first, second) = payload.as_bytes().split_at(17);
    let halves = fragments([first, second]);
    let long = operation_for(PAYLOAD_MAX);
    let mut cases = vec![
        case("7.1.1 a request, then a close", [text(&payload), normal()]).answered([answer("hello")]),
        case("7.1.2 a close, then another", [normal(), normal()]),
        case("7.1.3 a close, then a ping", [normal(), ping(b"too late")]),
        case("7.1.4 a close, then a request", [normal(), text(&payload)]),
        case("7.1.5 a close between two frames", [halves[0].clone(), normal(), halves[1].clone()]),
        case(
            "7.1.6 a long request, a close, a ping",
            [text(request(&long)), normal(), ping(b"too late")],
        )
        .answered([answer(&long)]),
        case("a close, then what is no frame", [normal(), vec![0xFF; 1000]]),
    ];
    for case in &mut cases {
        case.end = End::Closed(NORMAL);
    }
    cases.push(case("7.3.1 no code", [close(b"")]).closed(None));
    cases.push(case("7.3.2 half a code", [close(&[3])]).closed(PROTOCOL));
    for (name, length) in [("7.3.3", 0), ("7.3.4", 2), ("7.3.5", 123)] {
        let reason = vec![b'*'; length];
        let payload = [&1000_u16.to_be_bytes()[..], &reason].concat();
        cases.push(case(format!("{name} a reason of {length} bytes"), [close(&payload)]).closed(NORMAL));
    }
    let too_long = [&1000_u16.to_be_bytes()[..], &[b'*'; 124]].concat();
    cases.push(case("7.3.6 a reason of 124 bytes", [close(&too_long)]).closed(PROTOCOL));
    let not_text = [&1000_u16.to_be_bytes()[..], b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80edited"].concat();
    cases.push(case("7.5.1 a reason that is not UTF-8", [close(&not_text)]).closed(NOT_UTF_8));
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999_u16] {
        let echoed = case(format!("7.7 the code {code}"), [close(&code.to_be_bytes())]);
        cases.push(echoed.closed(Some(code)));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535_u16] {
        let bare = close(&code.to_be_bytes());
        let reasoned = close(&[&code.to_be_bytes()[..], b"a reason"].concat());
        cases.push(case(format!("7.9, 7.13 the code {code}"), [bare]).closed(PROTOCOL));
        cases.push(case(format!("7.9, 7.13 the code {code} with a reason"), [reasoned]).closed(PROTOCOL));
    }
    cases.into_iter().flat_map(Case::both_ways_unless_long).collect()
}

impl Case {
    /// This case as it is, and octet by octet where that does not take long.
    fn both_ways_unless_long(self) -> Vec<Self> {
        const LONG: usize = 70_000;
        if self.sent.len() > LONG {
            vec![self.cut_every(997), self]
        } else {
            self.both_ways().into()
        }
    }
}

/// Cases 9, as far as they are no benchmarks: the longest message there may be, and anything longer.
pub fn limits() -> Vec<Case> {
    let longest = operation_for(PAYLOAD_MAX);
    let too_long = operation_for(PAYLOAD_MAX + 1);
    let fits = request(&longest);
    let exceeds = request(&too_long);
    assert_eq!((fits.len(), exceeds.len()), (PAYLOAD_MAX, PAYLOAD_MAX + 1));
    let mut cases = vec![
        case("9.1 the longest message", [text(&fits)]).answered([answer(&longest)]),
        case("a byte more than the longest message", [text(&exceeds)]).closed(TOO_LARGE),
    ];
    for size in [64, 1_000, 64 * 1024, PAYLOAD_MAX - 1] {
        let parts = fragments(fits.as_bytes().chunks(size));
        cases.push(case(format!("9.3 the longest message in frames of {size}"), parts).answered([answer(&longest)]));
        let parts = fragments(exceeds.as_bytes().chunks(size));
        cases.push(case(format!("a byte more than that in frames of {size}"), parts).closed(TOO_LARGE));
    }
    for size in [64, 2_048] {
        cases.push(cases[0].cut_every(size));
    }
    for length in [PAYLOAD_MAX as u64 + 1, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
        for opcode in [TEXT, BINARY] {
            cases.push(
                case(
                    format!("an announcement of {length} bytes, opcode {opcode}"),
                    [announcement(opcode, length)],
                )
                .closed(TOO_LARGE),
            );
        }
        let later = [frame(TEXT, Part::More, b"{"), announcement(CONTINUATION, length)];
        cases.push(case(format!("an announcement of {length} bytes after a first frame"), later).closed(TOO_LARGE));
        cases.push(case(format!("an announcement of a ping of {length} bytes"), [announcement(PING, length)]).closed(TOO_LARGE));
    }
    let endless = std::iter::once(frame(TEXT, Part::More, b"{")).chain((0..10_000).map(|_| frame(CONTINUATION, Part::More, b"")));
    cases.push(
        case(
            "10,000 empty frames, then the end",
            endless.chain([frame(CONTINUATION, Part::Last, b"}")]),
        )
        .answered([
            r#"{"id":0,"type":"error","code":"INVALID_REQUEST","message":"Message must include non-empty string \"type\""}"#.to_owned(),
        ]),
    );
    cases
}
