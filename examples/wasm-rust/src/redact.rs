/// Cards have up to 19 digits, with something between them.
const MAX_CARD: usize = 2 * 19;

/// Masks what of a line is an e-mail address or the number of a card, and tells how often.
pub fn line(text: &str) -> (String, usize) {
    let mut out = String::with_capacity(text.len());
    let mut masked = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let word_end = rest.find(|c: char| !is_address(c)).unwrap_or(rest.len());
        let number_end = rest.bytes().take(MAX_CARD).take_while(|b| b.is_ascii_digit() || b" -".contains(b)).count();
        let number = rest[..number_end].trim_end_matches(|c| c == ' ' || c == '-');
        let word = rest[..word_end].trim_end_matches('.');
        let taken = if rest.starts_with(|c: char| c.is_ascii_digit()) && is_card(number) {
            masked += 1;
            out.push_str(&mask_card(number));
            number.len()
        } else if is_mail(word) {
            masked += 1;
            out.push_str("***");
            out.push_str(&word[word.find('@').unwrap_or(0)..]);
            word.len()
        } else {
            let taken = word_end.max(rest.chars().next().map_or(0, char::len_utf8));
            out.push_str(&rest[..taken]);
            taken
        };
        rest = &rest[taken..];
    }
    (out, masked)
}

fn is_address(c: char) -> bool {
    c.is_alphanumeric() || "@._%+-".contains(c)
}

fn is_mail(word: &str) -> bool {
    let mut parts = word.split('@');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(local), Some(host), None) => !local.is_empty() && host.contains('.') && !host.starts_with('.') && !host.ends_with('.'),
        _ => false,
    }
}

/// Cards have 13 to 19 digits, the last of which is a check digit by Luhn (ISO/IEC 7812-1).
fn is_card(number: &str) -> bool {
    let digits: Vec<u32> = number.chars().filter_map(|c| c.to_digit(10)).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| if i % 2 == 0 { *d } else { d * 2 / 10 + d * 2 % 10 })
        .sum();
    (13..=19).contains(&digits.len()) && sum % 10 == 0
}

/// Keeps the last four digits.
fn mask_card(number: &str) -> String {
    let mut digits = number.chars().filter(char::is_ascii_digit).count();
    let mask = |c: char| {
        if !c.is_ascii_digit() {
            return c;
        }
        digits -= 1;
        if digits < 4 { c } else { '*' }
    };
    number.chars().map(mask).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn line() {
        for (text, want, masked) in [
            ("ada@example.org paid.\n", "***@example.org paid.\n", 1),
            ("card 4111 1111 1111 1111, thanks", "card **** **** **** 1111, thanks", 1),
            ("4111-1111-1111-1112 is none", "4111-1111-1111-1112 is none", 0),
            ("<a.b+c@x.co.uk>,<d@x.ch>.", "<***@x.co.uk>,<***@x.ch>.", 2),
            ("@, a@b, grüße@, ä@ö.de", "@, a@b, grüße@, ***@ö.de", 1),
            ("", "", 0),
        ] {
            assert_eq!(super::line(text), (want.to_string(), masked));
        }
    }
}
