//! Which variables a text reads, and whether they will be there: the engine's own parse of it, walked with what is known of the context.
//! Renders nothing. What cannot be known (the result of a call, an item by a computed key) is let through; rendering with samples finds it.

use super::{
    parts::{Parts, Reference, literal, parsed},
    shape::{Field, Shape},
};
use crate::definitions::nearest;
use minijinja::machinery::ast::{BinOpKind, Call, CallArg, Expr, Macro, Spanned, Stmt, UnaryOpKind};
use std::collections::{BTreeMap, BTreeSet};

/// What a variable is that a text reads and that may not be there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    /// Nothing provides it; perhaps this was meant.
    Unknown(Option<String>),
    /// It is not always there, and the text has nothing for when it is not.
    Optional,
}

/// A variable that may not be there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Missing {
    /// The part that names it; `None` for the text itself.
    pub(crate) part: Option<String>,
    /// Byte of the text.
    pub(crate) at: usize,
    /// With dots.
    pub(crate) variable: String,
    pub(crate) lack: Lack,
}

/// Parts within each other, and in one text in all, that are walked; what includes itself is found elsewhere.
const MAX_DEPTH: usize = 8;
const MAX_PARTS: usize = 1_000;
/// Statements and expressions within each other that are walked: the walk goes by recursion, and a thread's stack has an end. What nobody would
/// write is let through.
const MAX_LEVELS: usize = 64;

/// Variables that a text reads and that may not be there, in order of place. A text that is none of the engine's has none.
pub(crate) fn missing(
    source: &str,
    root: &Shape,
    globals: &BTreeSet<&str>,
    parts: &Parts<'_>,
    locale: &str,
) -> BTreeSet<Missing> {
    let mut walk = Walk {
        root,
        globals,
        parts,
        locale,
        part: None,
        depth: 0,
        left: MAX_PARTS,
        levels: 0,
        scopes: vec![BTreeMap::new()],
        defined: Vec::new(),
        overridden: BTreeSet::new(),
        found: BTreeSet::new(),
    };
    walk.text(source);
    walk.found
}

struct Walk<'w> {
    root: &'w Shape,
    globals: &'w BTreeSet<&'w str>,
    parts: &'w Parts<'w>,
    locale: &'w str,
    part: Option<String>,
    depth: usize,
    left: usize,
    levels: usize,
    /// What the text itself has named so far, the innermost last.
    scopes: Vec<BTreeMap<String, Field>>,
    /// Paths that the text has asked for, and that are therefore there.
    defined: Vec<String>,
    /// Blocks of a layout that the text writes itself.
    overridden: BTreeSet<String>,
    found: BTreeSet<Missing>,
}

/// Whether the text copes where the value is not there.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Needed,
    Optional,
}

impl Walk<'_> {
    fn text(&mut self, source: &str) {
        if let Some(Stmt::Template(template)) = parsed(source) {
            self.body(&template.children);
        }
    }

    /// A part with what the text that asks for it knows.
    fn reference(&mut self, name: &Expr<'_>) {
        let Some(name) = literal(name) else { return };
        let Some((file, source)) = self.parts.find(&name, self.locale) else { return };
        if self.depth < MAX_DEPTH && self.left > 0 {
            self.left -= 1;
            self.depth += 1;
            let outer = self.part.replace(file.to_owned());
            self.text(source);
            self.part = outer;
            self.depth -= 1;
        }
    }

    fn body(&mut self, statements: &[Stmt<'_>]) {
        // A layout follows what extends it, and sees what was set there.
        let mut layout = None;
        for statement in statements {
            if let Stmt::Extends(extends) = statement {
                layout = Some(&extends.name);
            }
            self.statement(statement);
        }
        if let Some(name) = layout {
            let own: Vec<String> = Reference::blocks(statements).map(str::to_owned).collect();
            self.overridden.extend(own);
            self.reference(name);
        }
    }

    fn inner(&mut self, statements: &[Stmt<'_>]) {
        self.scopes.push(BTreeMap::new());
        self.body(statements);
        self.scopes.pop();
    }

    /// Statements that run only where these paths are there.
    fn guarded(&mut self, paths: Vec<String>, walk: impl FnOnce(&mut Self)) {
        let before = self.defined.len();
        self.defined.extend(paths);
        walk(self);
        self.defined.truncate(before);
    }

    fn bind(&mut self, target: &Expr<'_>, field: &Field) {
        match target {
            Expr::Var(variable) => {
                if let Some(scope) = self.scopes.last_mut() {
                    scope.insert(variable.id.to_owned(), field.clone());
                }
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.bind(item, &Field::always(Shape::Any))),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.bind(item, &Field::always(Shape::Any))),
            _ => {}
        }
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        if self.levels < MAX_LEVELS {
            self.levels += 1;
            self.known_statement(statement);
            self.levels -= 1;
        }
    }

    fn known_statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.body(&template.children),
            Stmt::EmitExpr(emit) => self.needed(&emit.expr),
            Stmt::EmitRaw(_) => {}
            Stmt::ForLoop(each) => {
                let items = self.expression(&each.iter, Use::Needed);
                self.scopes.push(BTreeMap::from([("loop".to_owned(), Field::always(Shape::Any))]));
                self.bind(&each.target, &Field::always(items.shape.item()));
                each.filter_expr.iter().for_each(|filter| self.needed(filter));
                self.body(&each.body);
                self.scopes.pop();
                self.inner(&each.else_body);
            }
            Stmt::IfCond(condition) => {
                self.needed(&condition.expr);
                self.guarded(asked(&condition.expr, true), |walk| walk.body(&condition.true_body));
                self.guarded(asked(&condition.expr, false), |walk| walk.body(&condition.false_body));
            }
            Stmt::WithBlock(with) => {
                self.scopes.push(BTreeMap::new());
                for (target, value) in &with.assignments {
                    let value = self.expression(value, Use::Needed);
                    self.bind(target, &value);
                }
                self.body(&with.body);
                self.scopes.pop();
            }
            Stmt::Set(set) => {
                let value = self.expression(&set.expr, Use::Needed);
                self.bind(&set.target, &value);
            }
            Stmt::SetBlock(set) => {
                self.inner(&set.body);
                self.bind(&set.target, &Field::always(Shape::Scalar));
            }
            Stmt::AutoEscape(escape) => self.inner(&escape.body),
            Stmt::FilterBlock(filter) => self.inner(&filter.body),
            Stmt::Block(block) => {
                let is_replaced = self.part.is_some() && self.overridden.contains(block.name);
                if !is_replaced {
                    self.inner(&block.body);
                }
            }
            Stmt::Include(include) => self.reference(&include.name),
            Stmt::Extends(_) => {} // walked after all that the text says itself
            Stmt::Import(import) => {
                self.reference(&import.expr);
                self.bind(&import.name, &Field::always(Shape::Any));
            }
            Stmt::FromImport(import) => {
                self.reference(&import.expr);
                for (name, alias) in &import.names {
                    self.bind(alias.as_ref().unwrap_or(name), &Field::always(Shape::Any));
                }
            }
            Stmt::Macro(declared) => self.declaration(declared),
            Stmt::CallBlock(block) => {
                self.call(&block.call);
                self.declaration(&block.macro_decl);
            }
            Stmt::Do(call) => self.call(&call.call),
        }
    }

    fn declaration(&mut self, declared: &Macro<'_>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(declared.name.to_owned(), Field::always(Shape::Any));
        }
        declared.defaults.iter().for_each(|default| self.needed(default));
        let caller = ("caller".to_owned(), Field::always(Shape::Any));
        self.scopes.push(BTreeMap::from([caller]));
        declared.args.iter().for_each(|argument| self.bind(argument, &Field::always(Shape::Any)));
        self.body(&declared.body);
        self.scopes.pop();
    }

    fn call(&mut self, call: &Spanned<Call<'_>>) {
        match &call.expr {
            // What is no function is found by rendering.
            Expr::Var(_) => {}
            // `self.title()` is a block.
            Expr::GetAttr(method) if matches!(&method.expr, Expr::Var(variable) if variable.id == "self") => {}
            Expr::GetAttr(method) => self.needed(&method.expr),
            other => self.needed(other),
        }
        self.arguments(&call.args);
    }

    fn arguments(&mut self, arguments: &[CallArg<'_>]) {
        for argument in arguments {
            match argument {
                CallArg::Pos(value)
                | CallArg::Kwarg(_, value)
                | CallArg::PosSplat(value)
                | CallArg::KwargSplat(value) => {
                    self.needed(value);
                }
            }
        }
    }

    fn needed(&mut self, expression: &Expr<'_>) {
        self.expression(expression, Use::Needed);
    }

    fn expression(&mut self, expression: &Expr<'_>, used: Use) -> Field {
        if self.levels >= MAX_LEVELS {
            return Field::always(Shape::Any);
        }
        self.levels += 1;
        let field = self.known_expression(expression, used);
        self.levels -= 1;
        field
    }

    fn known_expression(&mut self, expression: &Expr<'_>, used: Use) -> Field {
        const ANY: Field = Field::always(Shape::Any);
        const SCALAR: Field = Field::always(Shape::Scalar);
        if let Some((at, path)) = chain(expression) {
            return self.path(at, &path, used);
        }
        match expression {
            Expr::Var(_) | Expr::Const(_) => ANY,
            Expr::Slice(slice) => {
                for bound in [&slice.start, &slice.stop, &slice.step].into_iter().flatten() {
                    self.needed(bound);
                }
                self.expression(&slice.expr, Use::Needed)
            }
            Expr::UnaryOp(operation) => {
                self.needed(&operation.expr);
                SCALAR
            }
            Expr::BinOp(operation) => {
                self.needed(&operation.left);
                let known = match operation.op {
                    BinOpKind::ScAnd => asked(&operation.left, true),
                    BinOpKind::ScOr => asked(&operation.left, false),
                    _ => Vec::new(),
                };
                self.guarded(known, |walk| walk.needed(&operation.right));
                ANY
            }
            Expr::Compare(compare) => {
                self.needed(&compare.expr);
                compare.ops.iter().for_each(|operand| self.needed(&operand.expr));
                SCALAR
            }
            Expr::IfExpr(choice) => {
                self.needed(&choice.test_expr);
                self.guarded(asked(&choice.test_expr, true), |walk| walk.needed(&choice.true_expr));
                if let Some(other) = &choice.false_expr {
                    self.guarded(asked(&choice.test_expr, false), |walk| walk.needed(other));
                }
                ANY
            }
            Expr::Filter(filter) => {
                let copes = matches!(filter.name, "default" | "d");
                let value =
                    filter.expr.as_ref().map(|value| self.expression(value, if copes { Use::Optional } else { used }));
                self.arguments(&filter.args);
                let shape = value.map_or(Shape::Any, |value| value.shape);
                match filter.name {
                    "default" | "d" | "sort" | "reverse" | "unique" | "list" | "select" | "reject" | "selectattr"
                    | "rejectattr" => Field::always(shape),
                    "first" | "last" | "min" | "max" => Field::always(shape.item()),
                    _ => ANY,
                }
            }
            Expr::Test(test) => {
                let copes = matches!(test.name, "defined" | "undefined");
                self.expression(&test.expr, if copes { Use::Optional } else { Use::Needed });
                self.arguments(&test.args);
                SCALAR
            }
            Expr::GetAttr(step) => {
                let base = self.expression(&step.expr, Use::Needed);
                base.shape.get(step.name).unwrap_or(ANY)
            }
            Expr::GetItem(step) => {
                let base = self.expression(&step.expr, Use::Needed);
                self.needed(&step.subscript_expr);
                Field::always(base.shape.item())
            }
            Expr::Call(call) => {
                self.call(call);
                ANY
            }
            Expr::List(list) => {
                list.items.iter().for_each(|item| self.needed(item));
                ANY
            }
            Expr::Tuple(tuple) => {
                tuple.items.iter().for_each(|item| self.needed(item));
                ANY
            }
            Expr::Map(map) => {
                map.keys.iter().chain(&map.values).for_each(|part| self.needed(part));
                ANY
            }
        }
    }

    /// A variable with its attributes.
    fn path(&mut self, at: usize, path: &[&str], used: Use) -> Field {
        let bound = self.scopes.iter().rev().find_map(|scope| scope.get(path[0])).cloned();
        if bound.is_none() && self.root.get(path[0]).is_none() && self.globals.contains(path[0]) {
            return Field::always(Shape::Any);
        }
        let mut field = Field::always(Shape::Any);
        for depth in 0..path.len() {
            let before = field.shape.clone();
            let next = match (depth, &bound) {
                (0, Some(bound)) => Some(bound.clone()),
                (0, None) => self.root.get(path[0]),
                _ => before.get(path[depth]),
            };
            let Some(next) = next else {
                let siblings = if depth == 0 { self.root } else { &before };
                let meant = meant(siblings, path, depth);
                self.lack(at, path.join("."), Lack::Unknown(meant));
                return Field::always(Shape::Any);
            };
            let so_far = path[..=depth].join(".");
            let is_last = depth + 1 == path.len();
            if !(next.always || self.defined.contains(&so_far) || is_last && used == Use::Optional) {
                self.lack(at, so_far, Lack::Optional);
                return Field::always(Shape::Any);
            }
            field = next;
        }
        field
    }

    fn lack(&mut self, at: usize, variable: String, lack: Lack) {
        self.found.insert(Missing { part: self.part.clone(), at, variable, lack });
    }
}

/// The path that was probably meant: the segment that is missing, corrected, with the rest where the rest is there then.
fn meant(siblings: &Shape, path: &[&str], depth: usize) -> Option<String> {
    // A key with a dot is no name that a variable can have.
    let near = nearest(path[depth], siblings.names().filter(|name| !name.contains('.')))?;
    let corrected = |rest: &[&str]| [&path[..depth], &[near], rest].concat().join(".");
    let rest = &path[depth + 1..];
    let leads = rest.iter().try_fold(siblings.get(near)?.shape, |shape, step| shape.get(step).map(|field| field.shape));
    Some(corrected(if leads.is_some() { rest } else { &[] }))
}

/// A variable with the attributes that follow it by name, and where it begins.
fn chain<'s>(expression: &Expr<'s>) -> Option<(usize, Vec<&'s str>)> {
    match expression {
        Expr::Var(variable) => Some((variable.span().start_offset as usize, vec![variable.id])),
        Expr::GetAttr(step) => {
            let (at, mut path) = chain(&step.expr)?;
            path.push(step.name);
            Some((at, path))
        }
        _ => None,
    }
}

/// Paths that are there for sure where a condition is true (or false).
fn asked(condition: &Expr<'_>, holds: bool) -> Vec<String> {
    let path = |expression| chain(expression).map(|(_, path)| path.join("."));
    match condition {
        Expr::Test(test) if test.name == if holds { "defined" } else { "undefined" } => {
            path(&test.expr).into_iter().collect()
        }
        // What has a value that counts as true, once the default of nothing is left out.
        Expr::Filter(filter) if holds && matches!(filter.name, "default" | "d") && filter.args.is_empty() => {
            filter.expr.as_ref().and_then(path).into_iter().collect()
        }
        Expr::UnaryOp(not) if matches!(not.op, UnaryOpKind::Not) => asked(&not.expr, !holds),
        Expr::BinOp(both) if matches!((both.op, holds), (BinOpKind::ScAnd, true) | (BinOpKind::ScOr, false)) => {
            let mut all = asked(&both.left, holds);
            all.extend(asked(&both.right, holds));
            all
        }
        _ => Vec::new(),
    }
}
