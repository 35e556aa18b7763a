//! Texts of others, for a line of a terminal.

/// The text without what moves the cursor, turns the writing or cannot be seen, and not longer than `most` characters.
pub fn visible(text: &str, most: usize) -> String {
    text.chars().take(most).map(|letter| if is_invisible(letter) { ' ' } else { letter }).collect()
}

/// JSON in which no text can move a terminal's cursor or turn its writing. It means the same.
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        // Below a space JSON has escapes already, and the rest of them is its own.
        if letter >= '\u{7f}' && is_invisible(letter) {
            let mut units = [0; 2];
            text.extend(letter.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            text.push(letter);
        }
    }
    text
}

fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::{escaped, visible};

    #[test]
    fn what_moves_the_cursor_or_turns_the_writing_is_a_space() {
        assert_eq!(visible("a\u{1b}[2Jb\u{202e}c\nd\u{200b}", 100), "a [2Jb c d ");
        assert_eq!(visible("ääää", 2), "ää");
    }

    #[test]
    fn json_for_a_terminal_means_the_same_without_them() {
        let json = serde_json::json!({ "a\u{9b}31m": "\u{202e}\u{7f}\u{e0001}ä\u{1b}" });
        let text = escaped(&serde_json::to_string_pretty(&json).expect("JSON"));
        assert_eq!(text, "{\n  \"a\\u009b31m\": \"\\u202e\\u007f\\udb40\\udc01ä\\u001b\"\n}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), json);
    }
}
