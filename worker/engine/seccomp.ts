/**
 * The default system call filter: what ordinary programs use is allowed, the rest answers EPERM. The
 * same set as Docker's default allows, grouped by what the calls are for, so that a reader can judge them. Pure.
 */
import type { OciSeccomp, SeccompArgument } from "./oci.ts";

const eperm = 1;
const enosys = 38;
/** Flags of clone(2) that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
const cloneNamespaceFlags = 0x7e02_0000;
const afVsock = 40;
/** Execution domains that programs ask for: Linux, 32 bit, and the two with fixed addresses; and "tell me". */
const personalities = [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

const always = words(`
  read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
  ioctl pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 access pipe pipe2 select pselect6 sched_yield
  mremap msync mincore madvise process_mrelease dup dup2 dup3 pause nanosleep clock_nanosleep
  getitimer setitimer alarm getpid sendfile sendfile64
  connect accept accept4 sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown bind listen
  getsockname getpeername socketpair setsockopt getsockopt socketcall recv send
  fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill
  uname semget semop semctl semtimedop shmget shmat shmctl shmdt msgget msgsnd msgrcv msgctl ipc
  fcntl fcntl64 flock fsync fdatasync sync syncfs sync_file_range sync_file_range2
  truncate truncate64 ftruncate ftruncate64 fallocate
  getdents getdents64 readdir getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir creat
  link linkat unlink unlinkat symlink symlinkat readlink readlinkat
  chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 lchown lchown32 fchownat umask
  gettimeofday time times getrlimit setrlimit ugetrlimit prlimit64 getrusage sysinfo
  getuid getuid32 getgid getgid32 setuid setuid32 setgid setgid32 geteuid geteuid32 getegid getegid32
  setpgid getpgid getppid getpgrp setsid getsid setreuid setreuid32 setregid setregid32
  getgroups getgroups32 setgroups setgroups32 setresuid setresuid32 getresuid getresuid32
  setresgid setresgid32 getresgid getresgid32 setfsuid setfsuid32 setfsgid setfsgid32 capget capset
  rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo rt_sigsuspend sigaltstack
  sigaction sigpending sigprocmask sigreturn sigsuspend signal signalfd signalfd4 restart_syscall
  utime utimes utimensat futimesat mknod mknodat statfs statfs64 fstatfs fstatfs64 stat64 fstat64 lstat64
  fstatat64 newfstatat statx statmount listmount faccessat faccessat2 openat openat2 close_range
  getpriority setpriority nice sched_setparam sched_getparam sched_setscheduler sched_getscheduler
  sched_get_priority_max sched_get_priority_min sched_rr_get_interval sched_setattr sched_getattr
  sched_setaffinity sched_getaffinity mlock mlock2 mlockall munlock munlockall
  prctl arch_prctl modify_ldt set_thread_area get_thread_area gettid set_tid_address
  set_robust_list get_robust_list rseq membarrier futex futex_waitv futex_wait futex_wake futex_requeue
  setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
  removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat
  epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
  eventfd eventfd2 ppoll inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
  timer_create timer_settime timer_gettime timer_getoverrun timer_delete
  timerfd_create timerfd_settime timerfd_gettime clock_gettime clock_getres clock_adjtime adjtimex
  io_setup io_destroy io_getevents io_pgetevents io_submit io_cancel ioprio_get ioprio_set
  splice tee vmsplice copy_file_range readahead fadvise64 fadvise64_64 arm_fadvise64_64
  getcpu getrandom memfd_create memfd_secret mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
  pkey_alloc pkey_free pkey_mprotect pidfd_open pidfd_send_signal process_madvise map_shadow_stack cachestat
  landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp ptrace process_vm_readv process_vm_writev
  name_to_handle_at remap_file_pages mseal lsm_get_self_attr lsm_set_self_attr lsm_list_modules uretprobe
  _llseek _newselect mmap2 cacheflush breakpoint set_tls arm_sync_file_range
  adjtimex clock_getres_time64 clock_gettime64 clock_nanosleep_time64 clock_adjtime64 futex_time64
  io_pgetevents_time64 mq_timedreceive_time64 mq_timedsend_time64 ppoll_time64 pselect6_time64 recvmmsg_time64
  rt_sigtimedwait_time64 sched_rr_get_interval_time64 semtimedop_time64 timer_gettime64 timer_settime64
  timerfd_gettime64 timerfd_settime64 utimensat_time64
`);

/** Allowed with any of the capabilities that would guard them anyway. */
const byCapability: Readonly<Record<string, readonly string[]>> = {
  CAP_SYS_ADMIN: words(`
    bpf clone clone3 fanotify_init fanotify_mark fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr
    move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
  `),
  CAP_SYS_CHROOT: ["chroot"],
  CAP_DAC_READ_SEARCH: ["open_by_handle_at"],
  CAP_SYS_BOOT: ["reboot"],
  CAP_SYS_MODULE: ["delete_module", "init_module", "finit_module"],
  CAP_SYS_PACCT: ["acct"],
  CAP_SYS_PTRACE: [
    "kcmp",
    "pidfd_getfd",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
  ],
  CAP_SYS_RAWIO: ["iopl", "ioperm"],
  CAP_SYS_TIME: ["settimeofday", "stime", "clock_settime", "clock_settime64"],
  CAP_SYS_TTY_CONFIG: ["vhangup"],
  CAP_SYS_NICE: ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
  CAP_SYSLOG: ["syslog"],
  CAP_BPF: ["bpf"],
  CAP_PERFMON: ["perf_event_open"],
};

const architectures: Readonly<Record<string, readonly string[]>> = {
  x86_64: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  aarch64: ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
  riscv64: ["SCMP_ARCH_RISCV64"],
  s390x: ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
  ppc64le: ["SCMP_ARCH_PPC64LE"],
};

/** @param machine - As `uname -m` prints it. */
export function defaultSeccomp(machine: string, capabilities: readonly string[]): OciSeccomp {
  const held = capabilities.flatMap((capability) => byCapability[capability] ?? []);
  const allow = (
    names: readonly string[],
    args?: readonly SeccompArgument[],
  ): OciSeccomp["syscalls"][number] => ({
    names,
    action: "SCMP_ACT_ALLOW",
    ...(args !== undefined && { args }),
  });
  const free = [...new Set([...always, ...held])].toSorted();
  const admin = capabilities.includes("CAP_SYS_ADMIN");
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: eperm,
    architectures: architectures[machine] ?? [],
    syscalls: [
      allow(free),
      allow(["socket"], [{ index: 0, value: afVsock, op: "SCMP_CMP_NE" }]),
      ...personalities.map((value) => allow(["personality"], [{ index: 0, value, op: "SCMP_CMP_EQ" }])),
      ...(admin
        ? []
        : [
            // The flags are the first argument everywhere but on s390, where they are the second.
            allow(
              ["clone"],
              [
                {
                  index: machine === "s390x" ? 1 : 0,
                  value: cloneNamespaceFlags,
                  valueTwo: 0,
                  op: "SCMP_CMP_MASKED_EQ",
                },
              ],
            ),
            // Its flags are behind a pointer, which a filter cannot read; "no such call" makes libc use clone.
            { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: enosys },
          ]),
    ],
  };
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== "");
}
