//! Which ancestor is the shell that runs a script. No I/O: what /proc says of the ancestors is given.
//!
//! In `x=$(scratch mktemp)`, in a pipe or in `( )` the parent is a fork of the shell that ends a moment later: it has executed
//! nothing since, so it has the shell's program and the shell's memory image. What has executed something has another image:
//! the kernel places stack, heap and program at random each time. Where that is switched off, a script that runs another one
//! with the same program and as long arguments may be taken for one shell: its files live longer then, never shorter.

/// What /proc says of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: u32,
    /// 0: none in this PID namespace.
    pub(super) parent: u32,
    pub(super) session: i32,
    /// Clock ticks since boot.
    pub(super) start_time: u64,
    /// Real and effective user are ours.
    pub(super) own: bool,
    /// Device and inode of its program.
    pub(super) program: Option<(u64, u64)>,
    /// Where program, stack, arguments and environment begin and end; absent where we may not know.
    pub(super) layout: Option<[u64; 6]>,
    pub(super) command_line: Vec<u8>,
}

/// Fields of /proc/pid/stat, counted as proc_pid_stat(5) does: startcode, endcode, startstack, arg_start, arg_end, env_start.
const LAYOUT_FIELDS: [usize; 6] = [26, 27, 28, 48, 49, 50];

impl Process {
    /// The part that /proc/pid/stat tells.
    pub(super) fn parse(stat: &[u8]) -> Option<Self> {
        // The second field, the name, may hold anything; it ends at the last parenthesis.
        let (id, rest) = (stat.split(|byte| *byte == b' ').next()?, stat.iter().rposition(|byte| *byte == b')')? + 1);
        let fields: Vec<&str> = std::str::from_utf8(stat.get(rest..)?).ok()?.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let layout: Vec<u64> = LAYOUT_FIELDS.iter().filter_map(|number| field(*number)?.parse().ok()).collect();
        Some(Self {
            id: std::str::from_utf8(id).ok()?.parse().ok()?,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            start_time: field(22)?.parse().ok()?,
            // The kernel shows 0 or 1 to who may not know.
            layout: <[u64; 6]>::try_from(layout).ok().filter(|layout| layout.iter().all(|address| *address > 1)),
            ..Self::default()
        })
    }

    /// Whether it was forked from this parent and has executed nothing since.
    fn is_bare_fork_of(&self, parent: &Self) -> bool {
        let same_program = match (self.program, parent.program) {
            (Some(own), Some(parents)) => own == parents,
            _ => true,
        };
        same_program
            && match (self.layout, parent.layout) {
                (Some(own), Some(parents)) => own == parents,
                _ => !self.command_line.is_empty() && self.command_line == parent.command_line,
            }
    }
}

/// The place of the calling shell among the ancestors of a process, nearest first: the nearest one of our own user that is
/// no bare fork of its own parent. `session` is the caller's.
pub(super) fn calling_shell(ancestors: &[Process], session: i32) -> Option<usize> {
    let mut shell = ancestors.iter().position(|ancestor| ancestor.own)?;
    while let Some(parent) = ancestors.get(shell + 1)
        && parent.own
        && ancestors[shell].is_bare_fork_of(parent)
    {
        shell += 1;
    }
    // The system's first process is the shell of a container, or has just taken over an orphan; then the shell is gone.
    let found = &ancestors[shell];
    (found.id != 1 || found.session == session).then_some(shell)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: i32 = 7;

    /// A process of ours that has executed `program`; `image` stands for where the kernel placed it.
    fn process(id: u32, program: u64, image: u64) -> Process {
        Process {
            id,
            session: SESSION,
            own: true,
            program: Some((1, program)),
            layout: Some([image; 6]),
            command_line: format!("{program}").into_bytes(),
            ..Process::default()
        }
    }

    fn foreign(process: Process) -> Process {
        Process { own: false, ..process }
    }

    fn hidden(process: Process) -> Process {
        Process { program: None, layout: None, ..process }
    }

    #[test]
    fn the_shell_is_the_nearest_that_is_no_bare_fork() {
        let (bash, dash) = (1, 2);
        let terminal = || process(2, 9, 90);
        let cases: Vec<(&str, Vec<Process>, Option<u32>)> = vec![
            ("called by the shell", vec![process(50, bash, 10), terminal()], Some(50)),
            ("$( )", vec![process(51, bash, 10), process(50, bash, 10), terminal()], Some(50)),
            (
                "$( ( ) )",
                vec![process(52, bash, 10), process(51, bash, 10), process(50, bash, 10), terminal()],
                Some(50),
            ),
            ("bash in bash", vec![process(51, bash, 11), process(50, bash, 10)], Some(51)),
            ("dash in bash", vec![process(51, dash, 10), process(50, bash, 10)], Some(51)),
            ("nothing above", vec![process(50, bash, 10)], Some(50)),
            ("no ancestor", vec![], None),
            ("sudo", vec![foreign(process(51, 9, 90)), process(50, bash, 10), terminal()], Some(50)),
            ("a fork of another user's", vec![process(51, bash, 10), foreign(process(50, bash, 10))], Some(51)),
            ("another user's alone", vec![foreign(process(50, bash, 10))], None),
            ("hidden fork", vec![hidden(process(51, bash, 10)), hidden(process(50, bash, 10)), terminal()], Some(50)),
            ("hidden and another", vec![hidden(process(51, bash, 10)), hidden(process(50, dash, 10))], Some(51)),
            ("a container's shell", vec![process(9, bash, 10), process(1, bash, 10)], Some(1)),
            ("a daemon of init", vec![process(50, bash, 10), process(1, 9, 90)], Some(50)),
            ("an orphan", vec![Process { session: 1, ..process(1, 9, 90) }], None),
        ];
        for (what, ancestors, expected) in cases {
            let found = calling_shell(&ancestors, SESSION).map(|place| ancestors[place].id);
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn without_a_command_line_nothing_is_known() {
        let silent = |id| Process { command_line: Vec::new(), ..hidden(process(id, 1, 10)) };
        let ancestors = [silent(51), silent(50)];
        assert_eq!(calling_shell(&ancestors, SESSION), Some(0));
    }

    #[test]
    fn the_kernels_line_is_understood() {
        let numbers: Vec<String> = (3..=52).map(|number| (number * 100).to_string()).collect();
        let line = |rest: &str| format!("42 (a ) b) S 41 40 39 {rest}");
        let parsed = Process::parse(line(&numbers[4..].join(" ")).as_bytes()).unwrap();
        assert_eq!((parsed.id, parsed.parent, parsed.session, parsed.start_time), (42, 41, 39, 2200));
        assert_eq!(parsed.layout, Some([2600, 2700, 2800, 4800, 4900, 5000]));
        let hidden = line(&["0"; 46].join(" "));
        assert_eq!(Process::parse(hidden.as_bytes()).unwrap().layout, None);
        for garbled in ["", "42", "42 (a) S", "x (a) S 1 2 3"] {
            assert_eq!(Process::parse(garbled.as_bytes()), None, "{garbled}");
        }
    }
}
