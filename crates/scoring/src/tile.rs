//! Rows on their way to a model: a fixed number of them, column by column, as they were read.

/// Rows that are scored together. Small enough that a tile of some columns stays in a core's cache,
/// large enough that an engine's cost for each call disappears.
pub const TILE: usize = 1024;

/// Up to [`TILE`] rows of a fixed number of columns, in f64, before any preprocessing.
#[derive(Clone, Debug)]
pub struct Tile {
    width: usize,
    rows: usize,
    /// Column after column, each with room for [`TILE`] rows.
    values: Vec<f64>,
}

impl Tile {
    /// An empty tile of `width` columns.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            rows: 0,
            values: vec![0.0; width * TILE],
        }
    }

    /// How many columns it has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many rows are in it.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether no further row fits.
    pub fn is_full(&self) -> bool {
        self.rows == TILE
    }

    /// Forgets its rows.
    pub fn clear(&mut self) {
        self.rows = 0;
    }

    /// The values of a column, one for each row.
    pub fn column(&self, column: usize) -> &[f64] {
        &self.values[column * TILE..][..self.rows]
    }

    /// Writes a value of the row that [`Tile::end_row`] will add. Until then it is not part of the
    /// tile, so a row that turns out to be bad is simply written over.
    ///
    /// # Panics
    /// When the tile is full or has no such column.
    pub fn set(&mut self, column: usize, value: f64) {
        assert!(
            !self.is_full() && column < self.width,
            "a place in the tile"
        );
        self.values[column * TILE + self.rows] = value;
    }

    /// Adds the row whose values were set.
    ///
    /// # Panics
    /// When the tile is full.
    pub fn end_row(&mut self) {
        assert!(!self.is_full(), "room for a row");
        self.rows += 1;
    }

    /// Adds rows that come column by column, as many as fit, and says how many.
    ///
    /// # Panics
    /// When `columns` are not [`Tile::width`] many of one length.
    pub fn extend(&mut self, columns: &[&[f64]]) -> usize {
        assert_eq!(columns.len(), self.width, "a slice for each column");
        let taken = (TILE - self.rows).min(columns.first().map_or(0, |column| column.len()));
        for (at, column) in columns.iter().enumerate() {
            self.values[at * TILE + self.rows..][..taken].copy_from_slice(&column[..taken]);
        }
        self.rows += taken;
        taken
    }

    /// The values of a row, in the order of the columns.
    pub fn row(&self, row: usize) -> impl Iterator<Item = f64> {
        (0..self.width).map(move |column| self.column(column)[row])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_row_stays_in_the_tile() {
        let mut tile = Tile::new(2);
        tile.set(0, 1.0);
        tile.set(0, 2.0);
        tile.set(1, 3.0);
        tile.end_row();
        assert_eq!(tile.row(0).collect::<Vec<_>>(), [2.0, 3.0]);
        assert_eq!((tile.rows(), tile.column(1)), (1, &[3.0][..]));
        tile.clear();
        assert_eq!((tile.rows(), tile.column(1)), (0, &[][..]));
    }

    #[test]
    fn rows_beyond_the_tile_are_lost() {
        let column: Vec<f64> = (0..TILE + 10).map(|at| at as f64).collect();
        let mut tile = Tile::new(1);
        assert_eq!(tile.extend(&[&column[..6]]), 6);
        assert_eq!(tile.extend(&[&column[6..]]), TILE - 6);
        assert!(tile.is_full());
        assert_eq!(tile.column(0), &column[..TILE]);
        assert_eq!(tile.extend(&[&column[TILE..]]), 0);
    }
}
