//! Ensembles of decision trees (`TreeEnsembleClassifier` and `TreeEnsembleRegressor` of `ai.onnx.ml`): checked once, so
//! that a row's way through each tree ends after few steps, then evaluated tree by tree.
//!
//! Comparisons are exact: a value and a threshold of f32 are compared as the f64 that they are. Leaves are added up in f64.

use std::collections::{HashMap, HashSet};

use zeroize::Zeroizing;

/// The attributes of an ensemble, as the file has them.
pub(super) struct Ensemble<'a> {
    /// Columns of the input.
    pub(super) width: usize,
    /// Classes or targets.
    pub(super) outputs: usize,
    pub(super) classifier: bool,
    /// Leaves are averaged, not added up.
    pub(super) average: bool,
    pub(super) transform: Transform,
    pub(super) tree_ids: &'a [i64],
    pub(super) node_ids: &'a [i64],
    pub(super) features: &'a [i64],
    pub(super) thresholds: &'a [f64],
    pub(super) modes: &'a [Vec<u8>],
    pub(super) when_true: &'a [i64],
    pub(super) when_false: &'a [i64],
    /// Where a value that is missing goes; nothing where it always goes to the false side.
    pub(super) missing_is_true: &'a [i64],
    pub(super) base: &'a [f64],
    pub(super) leaf_tree_ids: &'a [i64],
    pub(super) leaf_node_ids: &'a [i64],
    pub(super) leaf_outputs: &'a [i64],
    pub(super) leaf_weights: &'a [f64],
}

/// What is done to the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Logistic,
    Softmax,
}

impl Transform {
    pub(super) fn of(name: &str) -> Result<Self, String> {
        match name {
            "" | "NONE" => Ok(Self::None),
            "LOGISTIC" => Ok(Self::Logistic),
            "SOFTMAX" => Ok(Self::Softmax),
            _ => Err("its post_transform is none of NONE, LOGISTIC and SOFTMAX".into()),
        }
    }
}

/// An ensemble that was checked.
pub(super) struct Trees {
    roots: Vec<u32>,
    nodes: Vec<Node>,
    /// What leaves add: to which sum, and how much.
    leaves: Zeroizing<Vec<(u32, f64)>>,
    base: Zeroizing<Vec<f64>>,
    share: f64,
    /// Sums that are made of leaves: one for two classes whose leaves name only one.
    sums: usize,
    /// Where two classes have one sum: whether its leaves name the second.
    of_second: bool,
    outputs: usize,
    transform: Transform,
}

/// A branch or a leaf.
#[derive(Clone, Copy)]
struct Node {
    threshold: f64,
    /// Of a branch the place of its true side, which the false side follows; of a leaf its first entry in `leaves`.
    next: u32,
    /// Of a branch the column; of a leaf how many entries it has.
    feature: u16,
    mode: Mode,
    missing_is_true: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Leaf,
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
}

impl Mode {
    fn of(name: &[u8]) -> Result<Self, String> {
        match name {
            b"LEAF" => Ok(Self::Leaf),
            b"BRANCH_LEQ" => Ok(Self::LessOrEqual),
            b"BRANCH_LT" => Ok(Self::Less),
            b"BRANCH_GTE" => Ok(Self::GreaterOrEqual),
            b"BRANCH_GT" => Ok(Self::Greater),
            b"BRANCH_EQ" => Ok(Self::Equal),
            b"BRANCH_NEQ" => Ok(Self::NotEqual),
            _ => Err("a branch compares in a way that is not understood".into()),
        }
    }
}

/// Why something is refused that has a meaning: a score would not be the one of whoever trained the model.
pub(super) const OTHERWISE: &str = "which engines compute in different ways (docs/model.md)";

const MAX_NODES: usize = 1 << 20;
const MAX_TREES: usize = 1 << 14;
/// Trees that are grown until nothing is left to split reach some dozens.
const MAX_DEPTH: usize = 256;
/// Of all trees together: what one row can take in time.
const MAX_TOTAL_DEPTH: usize = 1 << 18;
const MAX_OUTPUTS: usize = 1024;

impl Trees {
    /// Checks an ensemble: that each tree is one, and that whatever it names is there.
    pub(super) fn build(ensemble: &Ensemble<'_>) -> Result<Self, String> {
        let count = ensemble.node_ids.len();
        let lengths = [
            ensemble.tree_ids.len(),
            ensemble.features.len(),
            ensemble.thresholds.len(),
            ensemble.modes.len(),
            ensemble.when_true.len(),
            ensemble.when_false.len(),
        ];
        let missing = ensemble.missing_is_true.len();
        if lengths.iter().any(|&length| length != count) || (missing != 0 && missing != count) {
            return Err("its lists of nodes are not of one length".into());
        }
        if count == 0 || count > MAX_NODES {
            return Err(format!(
                "it has {count} nodes, not between 1 and {MAX_NODES}"
            ));
        }
        if !(1..=MAX_OUTPUTS).contains(&ensemble.outputs) {
            return Err(format!(
                "it has {} outputs, not between 1 and {MAX_OUTPUTS}",
                ensemble.outputs
            ));
        }
        if ensemble.thresholds.iter().any(|number| number.is_nan()) {
            return Err("nodes_values holds a NaN".into());
        }
        let added = ensemble.leaf_weights.iter().chain(ensemble.base);
        if added.into_iter().any(|number| !number.is_finite()) {
            return Err("a weight or a base value is not finite".into());
        }
        let mut builder = Builder {
            ensemble,
            places: HashMap::with_capacity(count),
            leaves: HashMap::new(),
            seen: vec![false; count],
            trees: Self {
                roots: Vec::new(),
                nodes: Vec::with_capacity(count),
                leaves: Vec::with_capacity(ensemble.leaf_weights.len().min(MAX_NODES)).into(),
                base: Zeroizing::default(),
                share: 1.0,
                sums: ensemble.outputs,
                of_second: false,
                outputs: ensemble.outputs,
                transform: ensemble.transform,
            },
        };
        builder.read_leaves()?;
        builder.read_base()?;
        builder.check_transform()?;
        builder.grow()?;
        Ok(builder.trees)
    }

    /// How many numbers a row gets.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Evaluates rows that lie row by row, `width` values each, into [`Trees::outputs`] numbers each.
    pub(super) fn evaluate<T: Copy + Into<f64>>(
        &self,
        rows: &[T],
        width: usize,
        scores: &mut [f32],
    ) {
        let mut sums = Zeroizing::new([0.0_f64; BLOCK]);
        // Rows whose sums are in the first cache go through a tree together, while its nodes are there too.
        let at_once = (BLOCK / self.sums).max(1);
        for (rows, scores) in rows
            .chunks(at_once * width)
            .zip(scores.chunks_mut(at_once * self.outputs))
        {
            sums.fill(0.0);
            for &root in &self.roots {
                for (row, sums) in rows
                    .chunks_exact(width)
                    .zip(sums.chunks_exact_mut(self.sums))
                {
                    for &(sum, weight) in self.leaf(root, row) {
                        if let Some(sum) = sums.get_mut(sum as usize) {
                            *sum += weight;
                        }
                    }
                }
            }
            for (sums, scores) in sums
                .chunks_exact_mut(self.sums)
                .zip(scores.chunks_exact_mut(self.outputs))
            {
                for (sum, base) in sums.iter_mut().zip(self.base.iter()) {
                    *sum = *sum * self.share + base;
                }
                self.finish(sums, scores);
            }
        }
    }

    /// What the leaf that a row ends in adds.
    fn leaf<T: Copy + Into<f64>>(&self, root: u32, row: &[T]) -> &[(u32, f64)] {
        let mut at = root as usize;
        loop {
            let node = &self.nodes[at];
            if node.mode == Mode::Leaf {
                return &self.leaves[node.next as usize..][..usize::from(node.feature)];
            }
            let value: f64 = row[usize::from(node.feature)].into();
            let holds = match node.mode {
                Mode::Less => value < node.threshold,
                Mode::LessOrEqual | Mode::Leaf => value <= node.threshold,
                Mode::GreaterOrEqual => value >= node.threshold,
                Mode::Greater => value > node.threshold,
                Mode::Equal => value == node.threshold,
                Mode::NotEqual => value != node.threshold,
            };
            let holds = holds || (node.missing_is_true && value.is_nan());
            at = node.next as usize + usize::from(!holds);
        }
    }

    fn finish(&self, sums: &mut [f64], scores: &mut [f32]) {
        let logistic = |sum: f64| 1.0 / (1.0 + (-sum).exp());
        if let ([sum], [negative, positive]) = (&*sums, &mut *scores) {
            // Of two classes with one sum, the sum is the second's. Where its leaves name the second, the first has a sum
            // too, of nothing.
            let (first, second) = match (self.transform, self.of_second) {
                (Transform::None, false) => (1.0 - sum, *sum),
                (Transform::None, true) => (0.0, *sum),
                (Transform::Logistic, true) => (logistic(0.0), logistic(*sum)),
                (Transform::Logistic, false) | (Transform::Softmax, _) => {
                    (logistic(-sum), logistic(*sum))
                }
            };
            (*negative, *positive) = (first as f32, second as f32);
            return;
        }
        match self.transform {
            Transform::None => {}
            Transform::Logistic => {
                for sum in &mut *sums {
                    *sum = logistic(*sum);
                }
            }
            Transform::Softmax => {
                let greatest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                for sum in &mut *sums {
                    *sum = (*sum - greatest).exp();
                }
                let total: f64 = sums.iter().sum();
                for sum in &mut *sums {
                    *sum /= total;
                }
            }
        }
        for (sum, score) in sums.iter().zip(scores) {
            *score = *sum as f32;
        }
    }
}

/// Sums of a block of rows: 8 KiB.
const BLOCK: usize = MAX_OUTPUTS;

struct Builder<'a> {
    ensemble: &'a Ensemble<'a>,
    /// Of each node by its tree and its id.
    places: HashMap<(i64, i64), usize>,
    /// The entries of each leaf.
    leaves: HashMap<usize, Vec<(u32, f64)>>,
    seen: Vec<bool>,
    trees: Trees,
}

impl Builder<'_> {
    fn read_leaves(&mut self) -> Result<(), String> {
        let ensemble = self.ensemble;
        for (at, (&tree, &node)) in ensemble.tree_ids.iter().zip(ensemble.node_ids).enumerate() {
            if self.places.insert((tree, node), at).is_some() {
                return Err("a node is there twice".into());
            }
        }
        let count = ensemble.leaf_weights.len();
        let ids = [
            ensemble.leaf_tree_ids,
            ensemble.leaf_node_ids,
            ensemble.leaf_outputs,
        ];
        if ids.iter().any(|ids| ids.len() != count) || count > MAX_NODES {
            return Err("its lists of leaves are not of one length".into());
        }
        let first = ensemble.leaf_outputs.first().ok_or("it has no leaves")?;
        let one = ensemble.classifier
            && ensemble.outputs == 2
            && ensemble.leaf_outputs.iter().all(|output| output == first);
        if one {
            self.trees.sums = 1;
            self.trees.of_second = *first == 1;
            let negative = ensemble.leaf_weights.iter().any(|&weight| weight < 0.0);
            if ensemble.transform == Transform::None && negative {
                return Err("its two classes have one sum that is no probability".into());
            }
        }
        for at in 0..count {
            let named = (ensemble.leaf_tree_ids[at], ensemble.leaf_node_ids[at]);
            let node = *self
                .places
                .get(&named)
                .ok_or("a leaf is not among its nodes")?;
            let output = usize::try_from(ensemble.leaf_outputs[at]).ok();
            let output = output
                .filter(|&output| output < ensemble.outputs)
                .ok_or("a leaf is of no class")?;
            let sum = if one { 0 } else { output as u32 };
            self.leaves
                .entry(node)
                .or_default()
                .push((sum, ensemble.leaf_weights[at]));
        }
        Ok(())
    }

    /// With two classes only the one form is taken that all engines add up alike.
    fn read_base(&mut self) -> Result<(), String> {
        let (sums, base) = (self.trees.sums, self.ensemble.base);
        let two_classes = self.ensemble.classifier && self.ensemble.outputs == 2;
        let of_first = sums == 1 && !self.trees.of_second;
        *self.trees.base = match base.len() {
            0 => vec![0.0; sums],
            1 if two_classes && of_first => base.to_vec(),
            _ if two_classes => {
                return Err(format!(
                    "it has base values for two classes, {OTHERWISE}; leave them out, or name class 0 in all leaves and give one"
                ));
            }
            length if length == sums => base.to_vec(),
            length => return Err(format!("{length} base values for {sums} sums")),
        };
        Ok(())
    }

    /// Refuses what onnxruntime takes and does not do, or does otherwise than the specification has it.
    fn check_transform(&self) -> Result<(), String> {
        let ensemble = self.ensemble;
        if ensemble.classifier && ensemble.outputs < 2 {
            return Err("it has fewer than two classes".into());
        }
        let of_first = ensemble.classifier && self.trees.sums == 1 && !self.trees.of_second;
        match ensemble.transform {
            Transform::Softmax if of_first => Err(format!(
                "its post_transform is SOFTMAX of one sum for two classes, {OTHERWISE}; LOGISTIC is the same"
            )),
            Transform::Logistic | Transform::Softmax
                if !ensemble.classifier && ensemble.outputs == 1 =>
            {
                Err(format!(
                    "its post_transform is one for several targets and it has one, {OTHERWISE}; \
                     give NONE and a Sigmoid after it"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Lays out each tree from its root, which is its first node in the file.
    fn grow(&mut self) -> Result<(), String> {
        let ensemble = self.ensemble;
        let mut total_depth = 0;
        let mut roots = HashSet::new();
        for (at, &tree) in ensemble.tree_ids.iter().enumerate() {
            if roots.insert(tree) {
                let root = self.trees.nodes.len();
                self.trees.roots.push(root as u32);
                self.trees.nodes.push(Node::EMPTY);
                total_depth += self.grow_tree(at, root)?;
                if self.trees.roots.len() > MAX_TREES || total_depth > MAX_TOTAL_DEPTH {
                    return Err(format!(
                        "its trees are more than {MAX_TREES}, or together deeper than {MAX_TOTAL_DEPTH}"
                    ));
                }
            }
        }
        if ensemble.average {
            self.trees.share = 1.0 / self.trees.roots.len() as f64;
        }
        Ok(())
    }

    /// Returns the depth of the tree.
    fn grow_tree(&mut self, root: usize, place: usize) -> Result<usize, String> {
        let mut left = vec![(root, place, 1)];
        let mut deepest = 0;
        while let Some((at, place, depth)) = left.pop() {
            if std::mem::replace(&mut self.seen[at], true) {
                return Err("a tree comes back to one of its nodes".into());
            }
            if depth > MAX_DEPTH {
                return Err(format!("a tree is deeper than {MAX_DEPTH}"));
            }
            deepest = deepest.max(depth);
            self.trees.nodes[place] = self.node(at, depth, &mut left)?;
        }
        Ok(deepest)
    }

    fn node(
        &mut self,
        at: usize,
        depth: usize,
        left: &mut Vec<(usize, usize, usize)>,
    ) -> Result<Node, String> {
        let ensemble = self.ensemble;
        let mode = Mode::of(&ensemble.modes[at])?;
        if mode == Mode::Leaf {
            let entries = self.leaves.remove(&at).unwrap_or_default();
            let next = self.trees.leaves.len() as u32;
            let feature =
                u16::try_from(entries.len()).map_err(|_| "a leaf has too many weights")?;
            self.trees.leaves.extend(entries);
            return Ok(Node {
                next,
                feature,
                ..Node::EMPTY
            });
        }
        let feature = usize::try_from(ensemble.features[at]).ok();
        let feature = feature.filter(|&feature| feature < ensemble.width);
        let feature = feature.and_then(|feature| u16::try_from(feature).ok());
        let feature = feature
            .ok_or_else(|| format!("a branch looks at a column beyond {}", ensemble.width))?;
        let tree = ensemble.tree_ids[at];
        let next = self.trees.nodes.len();
        for (side, id) in [ensemble.when_true[at], ensemble.when_false[at]]
            .into_iter()
            .enumerate()
        {
            let child = *self
                .places
                .get(&(tree, id))
                .ok_or("a branch leads to no node of its tree")?;
            self.trees.nodes.push(Node::EMPTY);
            left.push((child, next + side, depth + 1));
        }
        // A tree of which a node has two parents is refused when the second comes, so there are no more than nodes.
        if self.trees.nodes.len() > 2 * MAX_NODES {
            return Err("a tree comes back to one of its nodes".into());
        }
        Ok(Node {
            threshold: ensemble.thresholds[at],
            next: next as u32,
            feature,
            mode,
            missing_is_true: ensemble
                .missing_is_true
                .get(at)
                .is_some_and(|&side| side != 0),
        })
    }
}

impl Node {
    const EMPTY: Self = Self {
        threshold: 0.0,
        next: 0,
        feature: 0,
        mode: Mode::Leaf,
        missing_is_true: false,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attributes of a tree, owned: column 0 against 1.5, its false side column 1 against -2.
    struct Owned {
        width: usize,
        outputs: usize,
        classifier: bool,
        average: bool,
        transform: Transform,
        ids: [Vec<i64>; 2],
        features: Vec<i64>,
        thresholds: Vec<f64>,
        modes: Vec<&'static str>,
        sides: [Vec<i64>; 2],
        missing: Vec<i64>,
        base: Vec<f64>,
        leaf_ids: [Vec<i64>; 2],
        leaf_outputs: Vec<i64>,
        leaf_weights: Vec<f64>,
    }

    fn good() -> Owned {
        Owned {
            width: 2,
            outputs: 1,
            classifier: false,
            average: false,
            transform: Transform::None,
            ids: [vec![0; 5], vec![0, 1, 2, 3, 4]],
            features: vec![0, 0, 1, 0, 0],
            thresholds: vec![1.5, 0.0, -2.0, 0.0, 0.0],
            modes: vec!["BRANCH_LEQ", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
            sides: [vec![1, 0, 3, 0, 0], vec![2, 0, 4, 0, 0]],
            missing: vec![],
            base: vec![],
            leaf_ids: [vec![0; 3], vec![1, 3, 4]],
            leaf_outputs: vec![0; 3],
            leaf_weights: vec![0.25, 0.5, 0.75],
        }
    }

    impl Owned {
        fn build(&self) -> Result<Trees, String> {
            let modes: Vec<Vec<u8>> = self
                .modes
                .iter()
                .map(|mode| mode.as_bytes().to_vec())
                .collect();
            Trees::build(&Ensemble {
                width: self.width,
                outputs: self.outputs,
                classifier: self.classifier,
                average: self.average,
                transform: self.transform,
                tree_ids: &self.ids[0],
                node_ids: &self.ids[1],
                features: &self.features,
                thresholds: &self.thresholds,
                modes: &modes,
                when_true: &self.sides[0],
                when_false: &self.sides[1],
                missing_is_true: &self.missing,
                base: &self.base,
                leaf_tree_ids: &self.leaf_ids[0],
                leaf_node_ids: &self.leaf_ids[1],
                leaf_outputs: &self.leaf_outputs,
                leaf_weights: &self.leaf_weights,
            })
        }

        fn scores(&self, rows: &[f32]) -> Vec<f32> {
            let trees = self.build().unwrap();
            let mut scores = vec![0.0; rows.len() / self.width * trees.outputs()];
            trees.evaluate(rows, self.width, &mut scores);
            scores
        }
    }

    fn refusal(change: impl FnOnce(&mut Owned)) -> String {
        let mut changed = good();
        change(&mut changed);
        changed.build().err().expect("taken for trees")
    }

    const ROWS: [f32; 10] = [
        1.5,
        0.0,
        1.6,
        -2.1,
        1.6,
        -2.0,
        f32::NAN,
        -3.0,
        2.0,
        f32::NAN,
    ];

    #[test]
    fn row_takes_another_way() {
        assert_eq!(good().scores(&ROWS), [0.25, 0.5, 0.75, 0.5, 0.75]);
        let mut missing = good();
        missing.missing = vec![1, 0, 0, 0, 0];
        assert_eq!(missing.scores(&ROWS), [0.25, 0.5, 0.75, 0.25, 0.75]);
    }

    #[test]
    fn comparison_of_another_mode() {
        for (mode, expected) in [
            ("BRANCH_LEQ", [true, true, false]),
            ("BRANCH_LT", [true, false, false]),
            ("BRANCH_GTE", [false, true, true]),
            ("BRANCH_GT", [false, false, true]),
            ("BRANCH_EQ", [false, true, false]),
            ("BRANCH_NEQ", [true, false, true]),
        ] {
            let mut stump = good();
            stump.modes = vec![mode, "LEAF", "LEAF"];
            stump.ids = [vec![0; 3], vec![0, 1, 2]];
            stump.features.truncate(3);
            stump.thresholds = vec![1.0, 0.0, 0.0];
            stump.sides = [vec![1, 0, 0], vec![2, 0, 0]];
            stump.leaf_ids = [vec![0; 2], vec![1, 2]];
            stump.leaf_outputs = vec![0; 2];
            stump.leaf_weights = vec![1.0, 0.0];
            let scores = stump.scores(&[0.5, 0.0, 1.0, 0.0, 1.5, 0.0]);
            assert_eq!(
                scores,
                expected.map(|holds| f32::from(u8::from(holds))),
                "{mode}"
            );
        }
    }

    #[test]
    fn two_classes_with_one_sum_are_added_wrong() {
        let mut binary = good();
        (binary.outputs, binary.classifier) = (2, true);
        assert_eq!(binary.scores(&ROWS[..4]), [0.75, 0.25, 0.5, 0.5]);
        binary.transform = Transform::Logistic;
        binary.base = vec![-0.5];
        let expected = |sum: f64| (1.0 / (1.0 + (-sum).exp())) as f32;
        assert_eq!(binary.scores(&ROWS[..2])[1], expected(-0.25));
        // Leaves of the second class alone are its sum, and the first's is zero.
        binary.base = vec![];
        binary.leaf_outputs = vec![1; 3];
        assert_eq!(binary.scores(&ROWS[..2]), [0.5, expected(0.25)]);
        binary.transform = Transform::Softmax;
        assert_eq!(binary.scores(&ROWS[..2]), [expected(-0.25), expected(0.25)]);
        binary.transform = Transform::None;
        assert_eq!(binary.scores(&ROWS[..2]), [0.0, 0.25]);
        binary.leaf_weights[0] = -0.25;
        assert!(
            binary
                .build()
                .is_err_and(|why| why.contains("no probability"))
        );
    }

    /// What others do with these is no probability that somebody trained.
    #[test]
    fn engines_that_differ_are_followed() {
        let why = |change: &dyn Fn(&mut Owned)| refusal(change);
        for transform in [Transform::Logistic, Transform::Softmax] {
            let error = why(&|trees| trees.transform = transform);
            assert!(error.contains("a Sigmoid after it"), "{error}");
        }
        let binary = |trees: &mut Owned| (trees.outputs, trees.classifier) = (2, true);
        let error = why(&|trees| {
            binary(trees);
            trees.transform = Transform::Softmax;
        });
        assert!(error.contains("LOGISTIC is the same"), "{error}");
        for (classes, base) in [
            (vec![1, 1, 1], vec![0.3]),
            (vec![1, 1, 1], vec![0.3, 0.2]),
            (vec![0, 0, 0], vec![0.3, 0.2]),
            (vec![0, 1, 1], vec![0.3, 0.2]),
            (vec![0, 1, 1], vec![0.3]),
        ] {
            let error = why(&|trees| {
                binary(trees);
                (trees.leaf_outputs, trees.base) = (classes.clone(), base.clone());
            });
            assert!(error.contains("base values for two classes"), "{error}");
        }
        let error = why(&|trees| trees.classifier = true);
        assert!(error.contains("fewer than two classes"), "{error}");
        let error = why(&|trees| {
            trees.leaf_ids = [vec![], vec![]];
            (trees.leaf_outputs, trees.leaf_weights) = (vec![], vec![]);
        });
        assert!(error.contains("no leaves"), "{error}");
    }

    #[test]
    fn several_sums_are_mixed_up() {
        let mut three = good();
        (three.outputs, three.classifier, three.transform) = (3, true, Transform::Softmax);
        three.leaf_outputs = vec![0, 1, 2];
        let scores = three.scores(&ROWS[..6]);
        for (row, (class, weight)) in [(0, 0.25_f64), (1, 0.5), (2, 0.75)].into_iter().enumerate() {
            let expected = weight.exp() / (weight.exp() + 2.0);
            assert!((f64::from(scores[row * 3 + class]) - expected).abs() < 1e-7);
        }
        three.transform = Transform::None;
        three.base = vec![0.5, 0.0, 0.0];
        assert_eq!(three.scores(&ROWS[..2]), [0.75, 0.0, 0.0]);
    }

    #[test]
    fn average_is_a_sum() {
        let mut two = good();
        two.average = true;
        two.ids = [
            [vec![0; 5], vec![1; 5]].concat(),
            [two.ids[1].clone(), two.ids[1].clone()].concat(),
        ];
        two.features.extend_from_within(..);
        for side in &mut two.sides {
            side.extend_from_within(..);
        }
        two.thresholds.extend_from_within(..);
        two.modes.extend_from_within(..);
        two.leaf_ids = [vec![0, 0, 0, 1, 1, 1], vec![1, 3, 4, 1, 3, 4]];
        two.leaf_outputs = vec![0; 6];
        two.leaf_weights = vec![0.25, 0.5, 0.75, 0.75, 1.5, 2.25];
        assert_eq!(two.scores(&ROWS[..4]), [0.5, 1.0]);
    }

    #[test]
    fn rows_of_two_blocks_share_their_sums() {
        let rows: Vec<f32> = ROWS[..6].repeat(BLOCK);
        let scores = good().scores(&rows);
        assert_eq!(scores, [0.25, 0.5, 0.75].repeat(BLOCK));
    }

    /// Trees that were trained with values missing send all that are there to one side.
    #[test]
    fn threshold_beyond_all_numbers() {
        let mut one_side = good();
        one_side.thresholds[0] = f64::NEG_INFINITY;
        one_side.missing = vec![1, 0, 0, 0, 0];
        assert_eq!(one_side.scores(&ROWS), [0.75, 0.5, 0.75, 0.25, 0.75]);
        one_side.thresholds[0] = f64::INFINITY;
        assert_eq!(one_side.scores(&ROWS[..4]), [0.25, 0.25]);
        assert!(refusal(|trees| trees.thresholds[0] = f64::NAN).contains("NaN"));
        assert!(refusal(|trees| trees.leaf_weights[0] = f64::INFINITY).contains("not finite"));
        assert!(refusal(|trees| trees.base = vec![f64::NAN]).contains("not finite"));
    }

    #[test]
    fn tree_goes_in_circles() {
        assert!(refusal(|trees| trees.sides[0][2] = 0).contains("comes back"));
        assert!(refusal(|trees| trees.sides[1][0] = 0).contains("comes back"));
        assert!(refusal(|trees| trees.sides[1][0] = 1).contains("comes back"));
        assert!(refusal(|trees| trees.sides[1][2] = 3).contains("comes back"));
    }

    #[test]
    fn tree_leads_out_of_itself() {
        assert!(refusal(|trees| trees.sides[0][0] = 5).contains("no node"));
        assert!(refusal(|trees| trees.sides[0][0] = -1).contains("no node"));
        assert!(refusal(|trees| trees.ids[0][4] = 1).contains("not among"));
        assert!(refusal(|trees| trees.features[0] = 2).contains("beyond 2"));
        assert!(refusal(|trees| trees.features[0] = -1).contains("beyond 2"));
        assert!(refusal(|trees| trees.leaf_ids[1][0] = 9).contains("not among"));
        assert!(refusal(|trees| trees.leaf_outputs[0] = 1).contains("no class"));
        assert!(refusal(|trees| trees.ids[1][4] = 3).contains("twice"));
    }

    #[test]
    fn lists_of_different_lengths() {
        assert!(refusal(|trees| trees.modes.truncate(4)).contains("one length"));
        assert!(refusal(|trees| trees.missing = vec![1]).contains("one length"));
        assert!(refusal(|trees| trees.leaf_weights.truncate(2)).contains("one length"));
        assert!(refusal(|trees| trees.base = vec![0.0; 3]).contains("base values"));
        assert!(refusal(|trees| trees.modes[0] = "BRANCH_MEMBER").contains("not understood"));
        assert!(refusal(|trees| trees.outputs = 0).contains("outputs"));
        assert!(refusal(|trees| trees.outputs = 1 << 40).contains("outputs"));
    }

    #[test]
    fn tree_as_deep_as_it_has_nodes() {
        let branches = MAX_DEPTH as i64;
        let mut deep = good();
        // Branch k leads to leaf 1000 + k and to branch k + 1.
        let ids = (0..branches).chain(1000..1000 + branches).chain([branches]);
        deep.ids[1] = ids.collect();
        let count = deep.ids[1].len();
        deep.ids[0] = vec![0; count];
        deep.features = vec![0; count];
        deep.thresholds = vec![0.0; count];
        deep.modes = [vec!["BRANCH_LEQ"; MAX_DEPTH], vec!["LEAF"; MAX_DEPTH + 1]].concat();
        let zeros = vec![0; MAX_DEPTH + 1];
        deep.sides[0] = (1000..1000 + branches).chain(zeros.clone()).collect();
        deep.sides[1] = (1..=branches).chain(zeros).collect();
        deep.leaf_ids = [vec![0], vec![1000]];
        (deep.leaf_outputs, deep.leaf_weights) = (vec![0], vec![1.0]);
        assert!(deep.build().is_err_and(|why| why.contains("deeper than")));
    }
}
