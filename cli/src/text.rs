//! Texts of others, for a line of a terminal.

/// The text without what moves the cursor, turns the writing or cannot be seen, and not longer than `most` characters.
pub fn visible(text: &str, most: usize) -> String {
    text.chars().take(most).map(|letter| if is_invisible(letter) { ' ' } else { letter }).collect()
}

fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn what_moves_the_cursor_or_turns_the_writing_is_a_space() {
        assert_eq!(visible("a\u{1b}[2Jb\u{202e}c\nd\u{200b}", 100), "a [2Jb c d ");
        assert_eq!(visible("ääää", 2), "ää");
    }
}
