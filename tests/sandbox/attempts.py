"""What hostile code tries, as it runs inside: each attempt answers with what it got, or with the name of the refusal.

Read as text by `test_escape.py` and run in one piece, with `TARGETS` put in front. Only the attempts that it names are
made: some would do real harm where nothing holds them back. Standard library only.
"""

import array
import ctypes
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys

TARGETS: dict = globals().get("TARGETS", {})
ATTEMPTS = {}
libc = ctypes.CDLL(None, use_errno=True)


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def syscall(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "syscall")
    return "got"


def in_child(function):
    """Do something to this process that what comes later would not survive."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode[code] if code else "got"


def connect(family, address):
    with socket.socket(family) as client:
        client.settimeout(2)
        client.connect(address)
    return "got"


# --- files ---


@attempt
def read_a_secret():
    return open(TARGETS["secret"]).read()


@attempt
def list_home_directories():
    return sorted(os.listdir("/home"))


@attempt
def see_the_cache():
    return sorted(os.listdir(TARGETS["cache"]))


@attempt
def go_up_through_the_working_directory():
    return sorted(os.listdir("/working/../../../../../.."))


@attempt
def reach_the_root_of_pid_1():
    return sorted(os.listdir("/proc/1/root/"))


@attempt
def reach_the_root_of_a_process():
    return sorted(os.listdir(f"/proc/{TARGETS['victim']}/root/"))


@attempt
def follow_a_link_out_of_the_workspace():
    return open(TARGETS["link"]).read()


@attempt
def write_to_usr():
    return "got" if os.access("/usr", os.W_OK) else "EROFS"


@attempt
def write_to_the_root():
    return open("/written", "w").write("x")


@attempt
def write_a_kernel_setting():
    with open("/proc/sys/kernel/domainname", "r+") as file:
        text = file.read()
        file.seek(0)
        file.write(text)
    return "got"


@attempt
def see_shared_memory_of_the_host():
    return os.path.exists(TARGETS["shared_memory"])


@attempt
def make_a_device():
    os.mknod(os.environ["HOME"] + "/device", 0o20600, os.makedev(1, 1))
    return "got"


@attempt
def damage_the_environment():
    """Lift the write protection of a file that a clone shares with its environment, and write to it."""
    place = os.__file__
    os.chmod(place, 0o666)
    with open(place, "a") as file:
        file.write("# damaged")
    return "got"


# --- network ---


@attempt
def connect_to_the_hosts_loopback():
    return connect(socket.AF_INET, ("127.0.0.1", TARGETS["port"]))


@attempt
def connect_to_an_abstract_socket():
    return connect(socket.AF_UNIX, "\0" + TARGETS["abstract"])


@attempt
def connect_to_a_socket_by_its_path():
    return connect(socket.AF_UNIX, TARGETS["socket"])


@attempt
def list_network_interfaces():
    return [name for _, name in socket.if_nameindex()]


@attempt
def send_a_datagram_to_the_internet():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((TARGETS["address"], 53))  # chooses a route, sends nothing
    return "got"


@attempt
def open_a_packet_socket():
    socket.socket(17, socket.SOCK_RAW).close()
    return "got"


@attempt
def open_a_raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()
    return "got"


@attempt
def open_a_hypervisor_socket():
    socket.socket(40, socket.SOCK_STREAM).close()
    return "got"


@attempt
def talk_to_oneself_over_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return connect(socket.AF_INET, server.getsockname())


# --- processes ---


@attempt
def see_other_processes():
    return TARGETS["victim"] in [int(name) for name in os.listdir("/proc") if name.isdigit()]


@attempt
def read_the_environment_of_a_process():
    return "SECRET" in open(f"/proc/{TARGETS['victim']}/environ").read()


@attempt
def signal_a_process():
    os.kill(TARGETS["victim"], 0)
    return "got"


@attempt
def trace_a_process():
    if libc.ptrace(16, TARGETS["victim"], 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    libc.ptrace(17, TARGETS["victim"], 0, 0)
    return "got"


@attempt
def read_the_command_line_of_pid_1():
    return "got" if open("/proc/1/cmdline").read() else "nothing"


@attempt
def kill_pid_1():
    os.kill(1, 9)
    return "got"


@attempt
def have_other_descriptors():
    return [
        name
        for name in sorted(map(int, os.listdir("/proc/self/fd")))
        if name > 3 and os.path.exists(f"/proc/self/fd/{name}")
    ]


@attempt
def know_the_hosts_name():
    return socket.gethostname() == TARGETS["hostname"]


# --- privileges and system calls (x86-64 and aarch64 numbers) ---

X86 = os.uname().machine == "x86_64"


@attempt
def have_capabilities():
    with open("/proc/self/status") as file:
        rows = dict(line.split(":", 1) for line in file)
    return [name for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh") if int(rows[name], 16)]


@attempt
def become_root():
    os.setuid(0)
    return "got"


@attempt
def gain_by_a_setuid_program():
    done = subprocess.run([os.getcwd() + "/id", "-u"], capture_output=True, text=True, check=False)
    return "got" if done.stdout.strip() == "0" else "refused"


@attempt
def make_a_user_namespace():
    return in_child(lambda: syscall(272 if X86 else 97, 0x10000000))


@attempt
def make_a_namespace_with_clone3():
    return syscall(435, 0, 0)


@attempt
def mount_something():
    if libc.mount(b"x", os.environ["HOME"].encode(), b"tmpfs", 0, b"") < 0:
        raise OSError(ctypes.get_errno(), "mount")
    return "got"


@attempt
def unmount_something():
    if libc.umount2(b"/var/tmp", 2) < 0:
        raise OSError(ctypes.get_errno(), "umount")
    return "got"


@attempt
def change_the_root():
    return in_child(lambda: os.chroot(os.environ["HOME"]))


@attempt
def use_io_uring():
    return syscall(425, 1, 0)


@attempt
def load_a_program_into_the_kernel():
    return syscall(321 if X86 else 280, 0, 0, 0)


@attempt
def use_the_keyring():
    return syscall(250 if X86 else 219, 0, -3, 0)


@attempt
def count_events_of_the_processor():
    return syscall(298 if X86 else 241, 0, 0, 0, 0, 0)


@attempt
def open_files_by_handle():
    return syscall(304 if X86 else 265, 0, 0, 0)


@attempt
def put_characters_into_a_terminal():
    _, terminal = os.openpty()

    def type_into_it():
        os.setsid()
        fcntl.ioctl(terminal, 0x540E, 0)
        fcntl.ioctl(terminal, 0x5412, b"x")

    return in_child(type_into_it)


@attempt
def allow_more_processes():
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (hard + 1000, hard + 1000))
    return "got"


@attempt
def send_a_descriptor_to_the_server():
    with socket.socket(fileno=os.dup(3)) as channel:
        channel.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    return "got"


# --- roundabout ways ---


@attempt
def open_the_channel_to_the_server_again():
    os.close(os.open("/proc/self/fd/3", os.O_RDWR))
    return "got"


@attempt
def run_a_program_from_memory():
    """A program that is no file has no path that a rule could be about."""
    program = os.memfd_create("program", 0)
    with open("/bin/cat", "rb") as cat:
        os.write(program, cat.read())
    command = [f"/proc/self/fd/{program}", TARGETS["secret"]]
    return subprocess.run(command, pass_fds=[program], capture_output=True, text=True, check=False).stdout


@attempt
def climb_by_a_descriptor():
    place = os.open(os.getcwd(), os.O_RDONLY)
    return os.access("../" * 20 + TARGETS["secret"].lstrip("/"), os.F_OK, dir_fd=place)


@attempt
def give_a_secret_another_name():
    name = os.getcwd() + "/another-name"
    os.link(TARGETS["secret"], name)
    os.unlink(name)
    return "got"


@attempt
def open_the_memory_of_a_process():
    os.close(os.open(f"/proc/{TARGETS['victim']}/mem", os.O_RDWR))
    return "got"


@attempt
def take_a_descriptor_of_a_process():
    return syscall(438, os.pidfd_open(TARGETS["victim"]), 0, 0)


@attempt
def read_the_memory_of_a_process():
    return syscall(310 if X86 else 270, TARGETS["victim"], 0, 0, 0, 0, 0)


@attempt
def be_more_important_than_others():
    return in_child(lambda: os.nice(-5))


@attempt
def never_let_others_run():
    return in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


@attempt
def be_spared_when_memory_runs_out():
    def write():
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")

    return in_child(write)


@attempt
def watch_all_files():
    return syscall(300 if X86 else 262, 0, 0)


@attempt
def switch_off_random_addresses():
    return in_child(lambda: syscall(135 if X86 else 92, 0x0040000))


@attempt
def handle_faults_of_memory():
    return syscall(323 if X86 else 282, 1)


def outcome(function):
    try:
        return function()
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__) if error.errno else type(error).__name__
    except Exception as error:  # noqa: BLE001 - whatever it is, its name is the answer
        return type(error).__name__


if TARGETS:
    chosen = {name: function for name, function in ATTEMPTS.items() if name in TARGETS["attempts"]}
    print(json.dumps({name: outcome(function) for name, function in chosen.items()}))  # noqa: T201 - the answer
    sys.stdout.flush()
