//! Tables for a terminal: columns as wide as what stands in them.

/// Titles and rows as lines. A column of numbers stands to the right; what could move the cursor of a terminal is left out.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let column = |at: usize| rows.iter().filter_map(move |row| row.get(at));
    let width = |(at, title): (usize, &&str)| {
        let cells = column(at).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let is_number = |cell: &String| cell.split(' ').next().is_some_and(|word| word.parse::<f64>().is_ok());
        let numbers = at > 0 && column(at).all(|cell| cell == "–" || is_number(cell));
        (cells.max(title.chars().count()), numbers && !rows.is_empty())
    };
    let widths: Vec<(usize, bool)> = titles.iter().enumerate().map(width).collect();
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, (width, number))| match number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Without what could move the cursor of a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// `312 B`, `48 kB`, `12 MB`.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

#[test]
fn columns_are_as_wide_as_what_stands_in_them() {
    let rows = [vec!["a".to_owned(), "9".to_owned()], vec!["long\u{1b}[2J".to_owned(), "12".to_owned()]];
    assert_eq!(table(&["name", "n"], &rows), "name      n\na         9\nlong[2J  12\n");
    assert_eq!(table(&["name", "n"], &[]), "name  n\n");
    assert_eq!((size(999), size(48_500), size(12_000_000)), ("999 B".into(), "48 kB".into(), "12 MB".into()));
}
