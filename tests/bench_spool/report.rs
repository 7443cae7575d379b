//! Tables, for a terminal or as Markdown, and numbers as people read them. No measuring.

/// A table with what must be known to read it.
pub struct Table {
    pub title: &'static str,
    pub about: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    /// Sentences that follow from the rows.
    pub notes: Vec<String>,
}

impl Table {
    /// Prints it, with an empty line behind.
    pub fn print(&self, markdown: bool) {
        let columns: Vec<String> = self.columns.iter().map(|&column| column.to_owned()).collect();
        let rows = [&columns].into_iter().chain(&self.rows);
        if markdown {
            println!("### {}\n\n{}\n", self.title, self.about);
            for (place, row) in rows.enumerate() {
                println!("| {} |", row.join(" | "));
                if place == 0 {
                    println!("|{}", "---:|".repeat(columns.len()));
                }
            }
        } else {
            println!("{}\n{}\n", self.title, self.about);
            let width = |place: usize| rows.clone().map(|row| row[place].len()).max().unwrap_or_default();
            let widths: Vec<_> = (0..columns.len()).map(width).collect();
            for row in rows.clone() {
                let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
                println!("  {}", cells.join("  "));
            }
        }
        println!();
        if !self.notes.is_empty() {
            println!("- {}\n", self.notes.join("\n- "));
        }
    }
}

/// `1234567` as `1,234,567`.
pub fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2048` as `2 KiB`.
pub fn kib(bytes: usize) -> String {
    format!("{} KiB", bytes / 1024)
}

/// The middle one.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
