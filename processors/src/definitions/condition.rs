//! Conditions in the Common Expression Language over one variable, `event`.
//! Compiling finds what can be known without an event; evaluating never guesses: what is not a boolean is an error.

use bellwether_schemas::records::Event;
use cel::{
    Context, Env, ExecutionError, Program,
    common::{
        ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr},
        types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt},
        value::Val,
    },
};
use serde_json::Value;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use super::names::did_you_mean;
use crate::content::shape::{Field, Shape};

/// Fields of `event`.
const FIELDS: [&str; 6] = ["id", "source", "type", "subject", "time", "data"];
/// Functions of the standard library as it is compiled here (no time stamps or durations: that part of the library reads clocks).
const FUNCTIONS: [&str; 20] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "hasValue",
    "int",
    "matches",
    "none",
    "of",
    "ofNonZeroValue",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
    "value",
];
/// Names of types, which are values too: `type(event.data.n) == int`.
const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"];

/// Bytes of a condition. It is read and evaluated by recursion, one level an operator, and a thread's stack has an end.
const MAX_BYTES: usize = 1_024;

static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled condition.
pub(super) struct Condition(Program);

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.0.source_info().source).finish()
    }
}

/// What is wrong with a condition's text, and where: line and column, both from 1.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: Option<u32>,
    pub(super) column: Option<u32>,
    pub(super) problem: String,
}

impl Condition {
    pub(super) fn compile(source: &str) -> Result<Self, Vec<Fault>> {
        if source.len() > MAX_BYTES {
            let problem = format!("has {} bytes, more than {MAX_BYTES}", source.len());
            return Err(vec![Fault { line: None, column: None, problem }]);
        }
        let program = STANDARD.compile(source).map_err(|errors| {
            errors.errors.iter().map(|e| Fault::at((e.pos.0, e.pos.1), e.msg.clone())).collect::<Vec<_>>()
        })?;
        let mut walk = Walk { program: &program, bound: Vec::new(), faults: Vec::new() };
        walk.expression(program.expression());
        let faults = walk.faults;
        if faults.is_empty() { Ok(Self(program)) } else { Err(faults) }
    }

    /// Fields of the event's data that the condition reads and that may not be there, by what is declared of the data. A field that the
    /// condition asks for by `has(…)`, wherever it does, is taken for guarded.
    pub(super) fn misread(&self, data: &Shape) -> Vec<Fault> {
        let mut walk = Walk { program: &self.0, bound: Vec::new(), faults: Vec::new() };
        let mut reads = Vec::new();
        walk.reads(self.0.expression(), &mut reads);
        let guarded: Vec<String> = reads.iter().filter(|read| read.is_asked).map(|read| read.path.join(".")).collect();
        let data = Field::always(data.clone());
        for Read { id, path, is_asked } in &reads {
            let mut field = data.clone();
            for (depth, step) in path.iter().enumerate() {
                let Some(next) = field.shape.get(step) else {
                    let hint = did_you_mean(step, field.shape.names());
                    walk.fault(*id, format!("the event's data has no `{}`{hint}", path[..=depth].join(".")));
                    break;
                };
                let so_far = path[..=depth].join(".");
                let is_guarded =
                    guarded.iter().any(|asked| *asked == so_far || asked.starts_with(&format!("{so_far}.")));
                if !next.always && !*is_asked && !is_guarded {
                    walk.fault(*id, format!("`event.data.{so_far}` is not always there"));
                    break;
                }
                field = next;
            }
        }
        walk.faults
    }

    /// Whether the condition holds.
    ///
    /// # Errors
    /// It cannot be evaluated for this event, or gives no boolean. The words name fields and types, never values: an event's data is personal.
    pub(super) fn holds(&self, variables: &Context<'_, '_>) -> Result<bool, String> {
        match self.0.execute(variables) {
            Ok(cel::Value::Bool(holds)) => Ok(holds),
            Ok(other) => {
                Err(format!("the condition gives {}, not a boolean: compare it with something", other.type_of()))
            }
            Err(error) => Err(explain(&error)),
        }
    }
}

/// The variables of one event; made once, used by every flow that the event may trigger.
/// `event.time` is RFC 3339 text in UTC with milliseconds, always of the same length, so that comparing texts compares times.
pub(super) fn variables<'v>(event: &'v Event, data: &'v Value) -> Context<'v, 'v> {
    let text = |text: &'v str| -> Box<dyn Val + 'v> { Box::new(CelString::from(text)) };
    let subject = event.subject.as_deref().map_or_else(|| Box::new(CelNull) as Box<dyn Val + 'v>, text);
    let fields: HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> = HashMap::from([
        ("id".into(), text(&event.id)),
        ("source".into(), text(&event.source)),
        ("type".into(), text(&event.kind)),
        ("subject".into(), subject),
        ("time".into(), Box::new(CelString::from(fixed_width(event.time)))),
        ("data".into(), from_json(data)),
    ]);
    let mut context = Context::with_env(Arc::clone(&STANDARD));
    context.add_variable_as_val("event", Box::new(CelMap::from(fields)));
    context
}

fn fixed_width(time: bellwether_schemas::Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0).map_or_else(|_| time.to_string(), |at| format!("{at:.3}"))
}

/// Borrows every text of the JSON value. Whole numbers become `int`, so that `event.data.n + 1` has the types a person expects.
fn from_json(json: &Value) -> Box<dyn Val + '_> {
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(b) => Box::new(CelBool::from(*b)),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(int), _) => Box::new(CelInt::from(int)),
            (None, Some(uint)) => Box::new(CelUInt::from(uint)),
            (None, None) => Box::new(CelDouble::from(n.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(s) => Box::new(CelString::from(s.as_str())),
        Value::Array(items) => Box::new(CelList::from(items.iter().map(from_json).collect::<Vec<_>>())),
        Value::Object(fields) => Box::new(CelMap::from(
            fields.iter().map(|(k, v)| (CelMapKey::from(k.as_str()), from_json(v))).collect::<HashMap<_, _>>(),
        )),
    }
}

/// The library's own words print values in part of the cases; these never do.
fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => {
            format!("the event has no `{key}`: guard the condition with `has(…)`, or send the field")
        }
        ExecutionError::NoSuchOverload(overload) => format!("{overload}: compare values of one type"),
        ExecutionError::UndeclaredReference(name) => format!("`{name}` is not known: the one variable is `event`"),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".into(),
        ExecutionError::Overflow(operator, ..) => format!("the result of `{operator}` is out of range"),
        ExecutionError::IndexOutOfBounds(_) => "a list is shorter than the index: check `size(…)` before".into(),
        ExecutionError::FunctionError { function, .. } => format!("`{function}` failed on this event's values"),
        ExecutionError::UnexpectedType { want, .. } => format!("a value is not of the type {want}"),
        ExecutionError::InvalidArgumentCount { expected, actual } => {
            format!("a function takes {expected} arguments, not {actual}")
        }
        _ => "the condition does not fit the types of this event's values".into(),
    }
}

impl Fault {
    fn at((line, column): (isize, isize), problem: String) -> Self {
        let positive = |n: isize| u32::try_from(n).ok().filter(|n| *n > 0);
        Self { line: positive(line), column: positive(column), problem }
    }
}

/// Looks for names that nothing provides. Macros bind names (`event.data.items.exists(i, i.price > 10)`), so scopes are followed.
struct Walk<'p> {
    program: &'p Program,
    bound: Vec<&'p str>,
    faults: Vec<Fault>,
}

/// A field of the event's data that a condition reads.
struct Read<'p> {
    id: u64,
    path: Vec<&'p str>,
    /// By `has(…)`.
    is_asked: bool,
}

/// The path below `event.data` that an expression is.
fn below_data(node: &IdedExpr) -> Option<Vec<&str>> {
    let Expr::Select(select) = &node.expr else { return None };
    match &select.operand.expr {
        Expr::Ident(name) if name == "event" && select.field == "data" => Some(Vec::new()),
        _ => {
            let mut path = below_data(&select.operand)?;
            path.push(&select.field);
            Some(path)
        }
    }
}

impl<'p> Walk<'p> {
    /// Every path below `event.data`, each once with all its steps.
    fn reads(&self, node: &'p IdedExpr, all: &mut Vec<Read<'p>>) {
        if let Some(path) = below_data(node) {
            let is_asked = matches!(&node.expr, Expr::Select(select) if select.test);
            all.push(Read { id: node.id, path, is_asked });
            return;
        }
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
            Expr::Select(select) => self.reads(&select.operand, all),
            Expr::Call(call) => {
                call.target.iter().for_each(|target| self.reads(target, all));
                call.args.iter().for_each(|argument| self.reads(argument, all));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.reads(element, all)),
            Expr::Map(map) => self.entry_reads(&map.entries, all),
            Expr::Struct(structure) => self.entry_reads(&structure.entries, all),
            Expr::Comprehension(it) => {
                for part in [&it.iter_range, &it.accu_init, &it.loop_cond, &it.loop_step, &it.result] {
                    self.reads(part, all);
                }
            }
        }
    }

    fn entry_reads(&self, entries: &'p [IdedEntryExpr], all: &mut Vec<Read<'p>>) {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.reads(&field.value, all),
                EntryExpr::MapEntry(entry) => {
                    self.reads(&entry.key, all);
                    self.reads(&entry.value, all);
                }
            }
        }
    }

    fn fault(&mut self, id: u64, problem: String) {
        let position = self.program.source_info().offset_for(id).map(|(start, _)| self.line_and_column(start));
        self.faults.push(Fault::at(position.unwrap_or_default(), problem));
    }

    fn line_and_column(&self, offset: u32) -> (isize, isize) {
        let (mut line, mut column) = (1, 1);
        for character in self.program.source_info().source.chars().take(offset as usize) {
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        (line, column)
    }

    fn expression(&mut self, node: &'p IdedExpr) {
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => self.identifier(node.id, name),
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "event" && !self.bound.contains(&"event"))
                    && !FIELDS.contains(&select.field.as_str())
                {
                    let hint = did_you_mean(&select.field, FIELDS);
                    let inside = "what the producer sent is in `event.data`";
                    self.fault(node.id, format!("`event` has no field `{}`{hint}; {inside}", select.field));
                }
                self.expression(&select.operand);
            }
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                let is_operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
                if !is_operator && !FUNCTIONS.contains(&name) {
                    self.fault(node.id, format!("unknown function `{name}`{}", did_you_mean(name, FUNCTIONS)));
                }
                // `optional.of(x)` is a function of a name space, not a method of a variable.
                if let Some(target) = call.target.as_deref().filter(|t| t.expr != Expr::Ident("optional".into())) {
                    self.expression(target);
                }
                call.args.iter().for_each(|argument| self.expression(argument));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.expression(element)),
            Expr::Map(map) => self.entries(&map.entries),
            Expr::Struct(structure) => {
                self.fault(node.id, format!("unknown type `{}`", structure.type_name));
                self.entries(&structure.entries);
            }
            Expr::Comprehension(comprehension) => {
                self.expression(&comprehension.iter_range);
                self.expression(&comprehension.accu_init);
                let outer = self.bound.len();
                self.bound.push(&comprehension.iter_var);
                self.bound.extend(comprehension.iter_var2.as_deref());
                self.bound.push(&comprehension.accu_var);
                for part in [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result] {
                    self.expression(part);
                }
                self.bound.truncate(outer);
            }
        }
    }

    fn entries(&mut self, entries: &'p [IdedEntryExpr]) {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.expression(&field.value),
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key);
                    self.expression(&entry.value);
                }
            }
        }
    }

    fn identifier(&mut self, id: u64, name: &str) {
        if name == "event" || self.bound.contains(&name) || TYPES.contains(&name) {
            return;
        }
        let hint = if FIELDS.contains(&name) {
            format!(" (did you mean `event.{name}`?)")
        } else {
            did_you_mean(name, ["event"])
        };
        self.fault(id, format!("unknown variable `{name}`{hint}"));
    }
}
