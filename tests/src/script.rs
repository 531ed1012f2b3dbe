//! A short notation for SIPp scenarios: one line a message, compiled to SIPp's XML.
//!
//! ```text
//! call [sdp] [| header]...    INVITE, the challenge, its ACK, and the INVITE with credentials
//! > INVITE sdp | Supported: timer
//! > 180 of INVITE             answers the last INVITE, however long ago
//! > 200 [sdp]                 answers the last request
//! < 183 body~m=audio header~RSeq:1
//! < 180?                      may come, need not
//! pause 100                   milliseconds; 0..5 for a random time between
//! ```
//!
//! Words of a message: `sdp` or `sdp=8,101` (formats), `dir=inactive`, `c=0.0.0.0`, `dtmf=5` (an INFO body), `auth`
//! (credentials, after a `< 401 auth`), `uri=` (Request-URI), `to=` (To), `hops=` (Max-Forwards), `cseq=`, `callid=`. Words of what
//! is expected: `rseq` (keeps RSeq for `[$rseq]`), `body~REGEX`, `body!~REGEX` and `header~NAME:REGEX`, POSIX extended, `.` for a blank.

use std::fmt::Write;

/// The formats of an offer or answer that names none.
const FORMATS: &str = "0,8,101";

/// How the payload types used here are mapped.
const RTPMAPS: &[(&str, &str)] =
    &[("0", "PCMU/8000"), ("8", "PCMA/8000"), ("9", "G722/8000"), ("101", "telephone-event/8000")];

/// Which side of the call the script plays: whether the dialog's first request is sent or received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Caller,
    Callee,
}

/// The XML of a script.
pub fn compile(script: &str) -> String {
    let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.flat_map(expand).collect();
    let side = if lines.first().is_some_and(|line| line.starts_with("< ")) { Side::Callee } else { Side::Caller };
    let mut compiler = Compiler {
        side,
        xml: String::new(),
        cseq: 0,
        invite_cseq: 0,
        branch: 0,
        invite_branch: 0,
        sdp: 0,
        variables: 0,
        tagged: false,
    };
    lines.iter().for_each(|line| compiler.line(line));
    compiler.finish()
}

/// `call` is five lines.
fn expand(line: &str) -> Vec<String> {
    let Some(rest) = line.strip_prefix("call") else { return vec![line.to_owned()] };
    let (words, headers) = rest.split_once(" | ").map_or((rest, String::new()), |(w, h)| (w, format!("| {h}")));
    vec![
        format!("> INVITE {words} {headers}"),
        "< 100?".to_owned(),
        "< 401 auth".to_owned(),
        "> NACK".to_owned(),
        format!("> INVITE {words} auth {headers}"),
        "< 100?".to_owned(),
    ]
}

struct Compiler {
    side: Side,
    xml: String,
    /// Of our own requests.
    cseq: u32,
    /// Of our last INVITE, which ACK and CANCEL repeat.
    invite_cseq: u32,
    /// Numbers our transactions.
    branch: u32,
    /// Of our last INVITE.
    invite_branch: u32,
    /// Numbers our session descriptions.
    sdp: u32,
    /// Numbers SIPp's variables.
    variables: u32,
    /// Whether the last request has our tag already.
    tagged: bool,
}

/// One message of ours, taken apart.
struct Words<'a> {
    words: Vec<&'a str>,
    headers: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        let mut parts = text.split(" | ").map(str::trim);
        let words = parts.next().unwrap_or_default().split_whitespace().collect();
        Self { words, headers: parts.collect() }
    }

    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

impl Compiler {
    fn line(&mut self, line: &str) {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "<" => self.expect(&Words::of(rest)),
            ">" => {
                let words = Words::of(rest);
                match words.words[0].parse::<u16>() {
                    Ok(code) => self.response(code, &words),
                    Err(_) => self.request(words.words[0], &words),
                }
            }
            "pause" => match rest.split_once("..") {
                Some((min, max)) => {
                    self.put(&format!("<pause distribution=\"uniform\" min=\"{min}\" max=\"{max}\"/>"));
                }
                None => self.put(&format!("<pause milliseconds=\"{rest}\"/>")),
            },
            _ => panic!("{line}: no line of a script"),
        }
    }

    fn put(&mut self, xml: &str) {
        writeln!(self.xml, "{xml}").expect("a string");
    }

    fn expect(&mut self, expected: &Words<'_>) {
        let what = expected.words[0];
        let (what, optional) = what.strip_suffix('?').map_or((what, ""), |what| (what, " optional=\"true\""));
        let is_response = what.parse::<u16>().is_ok();
        let kind = if is_response { "response" } else { "request" };
        let auth = if expected.has("auth") { " auth=\"true\"" } else { "" };
        let opens = what == "200" || (what == "INVITE" && !self.tagged);
        // The peer's Contact and route, from what makes the dialog.
        let rrs = if opens || (what.starts_with('1') && is_response) { " rrs=\"true\"" } else { "" };
        let mut actions = String::new();
        for word in &expected.words[1..] {
            actions += &self.check(word).unwrap_or_default();
        }
        if expected.has("rseq") {
            let place = "search_in=\"hdr\" header=\"RSeq:\"";
            actions += &format!("<ereg regexp=\"[0-9]+\" {place} check_it=\"true\" assign_to=\"rseq\"/>\n");
        }
        if what == "INVITE" {
            for (header, variable) in [("Via:", "via"), ("CSeq:", "cseq"), ("From:", "from"), ("To:", "to")] {
                let assign = format!("search_in=\"hdr\" header=\"{header}\" assign_to=\"{variable}\"");
                actions += &format!("<ereg regexp=\".*\" {assign}/>\n");
            }
        }
        if !is_response {
            self.tagged |= what != "INVITE" && what != "CANCEL";
        }
        self.put(&format!("<recv {kind}=\"{what}\"{optional}{auth}{rrs}>"));
        if !actions.is_empty() {
            self.put(&format!("<action>\n{actions}</action>"));
        }
        self.put("</recv>");
    }

    /// An `ereg` action that must match, or must not.
    fn check(&mut self, word: &str) -> Option<String> {
        let (place, regex, check) = if let Some(regex) = word.strip_prefix("body~") {
            ("search_in=\"body\"".to_owned(), regex, "check_it")
        } else if let Some(regex) = word.strip_prefix("body!~") {
            ("search_in=\"body\"".to_owned(), regex, "check_it_inverse")
        } else {
            let (header, regex) = word.strip_prefix("header~")?.split_once(':')?;
            (format!("search_in=\"hdr\" header=\"{header}:\""), regex, "check_it")
        };
        self.variables += 1;
        let regex = regex.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        Some(format!("<ereg regexp=\"{regex}\" {place} {check}=\"true\" assign_to=\"check{}\"/>\n", self.variables))
    }

    fn response(&mut self, code: u16, words: &Words<'_>) {
        let of_invite = words.has("INVITE");
        let is_callee = self.side == Side::Callee;
        let mut text = format!("SIP/2.0 {code} Scripted\n");
        if of_invite {
            text += "Via:[$via]\nFrom:[$from]\nTo:[$to]";
        } else {
            text += "[last_Via:]\n[last_From:]\n[last_To:]";
        }
        if is_callee && (of_invite || !self.tagged) {
            text += ";tag=[pid]b[call_number]";
        }
        text += "\n[last_Call-ID:]\n";
        text += if of_invite { "CSeq:[$cseq]\n" } else { "[last_CSeq:]\n" };
        text += "[last_Record-Route:]\nContact: <sip:[service]@[local_ip]:[local_port];transport=[transport]>\n";
        self.send(text, words, code == 200 && words.words.iter().any(|word| word.starts_with("sdp")));
    }

    fn request(&mut self, method: &str, words: &Words<'_>) {
        let (method, is_failed) = if method == "NACK" { ("ACK", true) } else { (method, false) };
        let in_dialog = self.side == Side::Callee || (self.tagged && !is_failed && method != "CANCEL");
        let first = format!("sip:{}[remote_ip]:[remote_port]", if method == "REGISTER" { "" } else { "[service]@" });
        let uri = words.value("uri").map_or(first, str::to_owned);
        let uri = if in_dialog { "[next_url]".to_owned() } else { uri };
        if !matches!(method, "ACK" | "CANCEL") {
            self.cseq = words.value("cseq").map_or(self.cseq + 1, |cseq| cseq.parse().expect("a number"));
        }
        self.branch += 1;
        if method == "INVITE" {
            (self.invite_cseq, self.invite_branch) = (self.cseq, self.branch);
        }
        let of_invite = is_failed || method == "CANCEL";
        let branch = if of_invite { self.invite_branch } else { self.branch };
        let cseq = if matches!(method, "ACK" | "CANCEL") { self.invite_cseq } else { self.cseq };
        let via =
            format!("Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=z9hG4bK[pid]x[call_number]x{branch}");
        let mut text = format!("{method} {uri} SIP/2.0\n{via};rport\n");
        text += &match self.side {
            Side::Callee => "From: <sip:[service]@[remote_ip]>;tag=[pid]b[call_number]\nTo:[$from]\n".to_owned(),
            Side::Caller => {
                let to = words.value("to").unwrap_or(if method == "REGISTER" { "[caller]" } else { "[service]" });
                let tag = if in_dialog || is_failed { "[peer_tag_param]" } else { "" };
                let from = "From: \"[caller]\" <sip:[caller]@[remote_ip]>;tag=[pid]a[call_number]\n";
                format!("{from}To: <sip:{to}@[remote_ip]>{tag}\n")
            }
        };
        let call_id = words.value("callid").unwrap_or("[call_id]");
        text += &format!("Call-ID: {call_id}\nCSeq: {cseq} {method}\n");
        if !words.headers.iter().any(|header| header.starts_with("Contact")) && method != "REGISTER" {
            text += "Contact: <sip:[caller]@[local_ip]:[local_port];transport=[transport]>\n";
        }
        text += &format!("Max-Forwards: {}\n", words.value("hops").unwrap_or("70"));
        if in_dialog {
            text += "[routes]\n";
        }
        if words.has("auth") {
            text += "[authentication]\n";
            // From here on, if this one is accepted, there is a dialog.
            self.tagged = method == "INVITE";
        }
        self.send(text, words, method != "ACK");
    }

    /// Headers and body in common.
    fn send(&mut self, mut text: String, words: &Words<'_>, is_repeated: bool) {
        for header in &words.headers {
            text += header;
            text.push('\n');
        }
        let body = self.body(words);
        match &body {
            Some((kind, body)) => text += &format!("Content-Type: {kind}\nContent-Length: [len]\n\n{body}"),
            None => text += "Content-Length: 0\n\n",
        }
        let retrans = if is_repeated { " retrans=\"500\"" } else { "" };
        self.put(&format!("<send{retrans}>\n<![CDATA[\n{text}\n]]>\n</send>"));
    }

    fn body(&mut self, words: &Words<'_>) -> Option<(&'static str, String)> {
        if let Some(digit) = words.value("dtmf") {
            return Some(("application/dtmf-relay", format!("Signal={digit}\nDuration=160\n")));
        }
        let formats = if words.has("sdp") { FORMATS } else { words.value("sdp")? };
        self.sdp += 1;
        let connection = words.value("c").unwrap_or("[media_ip]");
        let mut sdp = format!(
            "v=0\no=sipp 1 {} IN IP[media_ip_type] [media_ip]\ns=-\nc=IN IP[media_ip_type] {connection}\nt=0 0\n\
             m=audio [auto_media_port] RTP/AVP {}\n",
            self.sdp,
            formats.replace(',', " ")
        );
        for (_, name) in
            RTPMAPS.iter().filter(|(number, _)| formats.split(',').any(|f| f == *number)).map(|m| (m.0, *m))
        {
            sdp += &format!("a=rtpmap:{} {}\n", name.0, name.1);
        }
        sdp += &format!("a={}\n", words.value("dir").unwrap_or("sendrecv"));
        Some(("application/sdp", sdp))
    }

    fn finish(self) -> String {
        let mut variables: Vec<String> = (1..=self.variables).map(|n| format!("check{n}")).collect();
        if self.xml.contains("assign_to=\"via\"") {
            variables.extend(["via", "cseq", "from", "to"].map(str::to_owned));
        }
        let reference = match variables.is_empty() {
            true => String::new(),
            false => format!("<Reference variables=\"{}\"/>\n", variables.join(",")),
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"ISO-8859-1\" ?>\n<scenario name=\"script\">\n{}{reference}</scenario>\n",
            self.xml
        )
    }
}
