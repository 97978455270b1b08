//go:build linux

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/network"
)

func newNetCommand(s streams) *cobra.Command {
	return newGroup("net", "Serve the network of enclaves", newNetServeCommand(s), newNetStatusCommand(s))
}

// netFlags configure the parent's side of a network.
type netFlags struct {
	publish  []string
	resolver string
	proxy    bool
	loopback bool
	imds     bool
	pcap     string
}

func (o *netFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.publish, "publish", nil,
		"forward a port of this machine to one of the enclave: `[ADDRESS:]PORT:PORT[/tcp|/udp]`; repeatable")
	f.StringVar(&o.resolver, "net-dns", "",
		"`address` of the resolver for enclaves, HOST[:PORT] (default: the first of /etc/resolv.conf)")
	f.BoolVar(&o.proxy, "upstream-proxy", false,
		"connect through the HTTP proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name")
	f.BoolVar(&o.loopback, "host-loopback", false,
		"let enclaves reach this machine's loopback addresses, as "+contract.NetworkHost[0].String())
	f.BoolVar(&o.imds, "imds", false,
		"let enclaves with the rule --egress imds reach this machine's instance metadata")
	f.StringVar(&o.pcap, "pcap", "", "write all frames to a `file` that tcpdump and Wireshark read")
}

// given returns the first flag that was given, or "".
func (o *netFlags) given(cmd *cobra.Command) string {
	for _, name := range []string{"publish", "net-dns", "upstream-proxy", "host-loopback", "imds", "pcap"} {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

// server opens what the flags ask for. host is the default address of published ports; with local, all of
// them must be loopback addresses.
func (o *netFlags) server(host string, local bool, event func(network.Event)) (*network.Server, func(),
	error) {
	cfg := network.Config{Loopback: o.loopback, IMDS: o.imds, Event: event}
	for _, text := range o.publish {
		p, err := network.ParsePublish(text, host)
		if err == nil && local && !p.Local() {
			err = errNotLocal
		}
		if err != nil {
			return nil, nil, usagef("invalid --publish %q: %v", text, err)
		}
		cfg.Publish = append(cfg.Publish, p)
	}
	if o.resolver != "" {
		address := o.resolver
		if _, _, err := net.SplitHostPort(address); err != nil {
			address = net.JoinHostPort(strings.Trim(address, "[]"), "53")
		}
		if host, _, _ := net.SplitHostPort(address); net.ParseIP(host) == nil {
			return nil, nil, usagef("invalid --net-dns %q: expected an IP address, and a port unless it "+
				"is 53", o.resolver)
		}
		cfg.Resolvers = []string{address}
	}
	if o.proxy {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	closePcap := func() {}
	if o.pcap != "" {
		f, err := os.OpenFile(o.pcap, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("--pcap: %w", err)
		}
		cfg.Pcap, closePcap = f, func() { f.Close() }
	}
	server, err := network.New(cfg)
	if err != nil {
		closePcap()
		return nil, nil, err
	}
	return server, func() { server.Close(); closePcap() }, nil
}

// describeNetEvent returns words for people.
func describeNetEvent(e network.Event) string {
	switch e.Kind {
	case network.Up:
		return fmt.Sprintf("CID %d: the network is up", e.CID)
	case network.Down:
		return fmt.Sprintf("CID %d: the network is down", e.CID)
	}
	return fmt.Sprintf("CID %d: refused inside (%s): %s, %d times", e.CID, e.Reason, e.Text, e.Count)
}

func newNetServeCommand(s streams) *cobra.Command {
	var o netFlags
	var listen, socket string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the network of this instance's enclaves",
		Long: `Serve the network of enclaves that were built with 'neb eif build --net', on their parent
instance. Each enclave, identified by its CID, has a network of its own. neb makes the enclaves' connections with
ordinary sockets, and needs no root. If several enclaves are connected, give their CIDs to --publish, as in
the second example.

'neb run --net' does the same for an enclave on this machine.`,
		Example: `  neb net serve --publish 8443:443
  neb net serve --publish 16@8443:443 --publish 17@9443:443 --net-dns 10.0.0.2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveNet(cmd.Context(), s, &o, listen, socket)
		},
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "vsock:"+strconv.Itoa(contract.NetworkPort),
		"`address` for enclaves to connect to: vsock:PORT, or unix:PATH for one enclave of 'neb run "+
			"--listen'")
	f.StringVar(&socket, "socket", "", "`path` of the socket for 'neb net status' (default: as there)")
	return cmd
}

func serveNet(ctx context.Context, s streams, o *netFlags, listen, socket string) error {
	l, err := openNetListener(listen)
	if err != nil {
		return err
	}
	defer l.Close()
	if socket, err = statusSocket(socket); err != nil {
		return err
	}
	endpoint, err := machine.ParseEndpoint("unix:" + socket)
	if err != nil {
		return usagef("invalid --socket: %v", err)
	}
	control, err := endpoint.Listen()
	if err != nil {
		return fmt.Errorf("socket for 'neb net status': %w", err)
	}
	defer control.Close()
	server, done, err := o.server("", false, func(e network.Event) { complain(s, "%s", describeNetEvent(e)) })
	if err != nil {
		return err
	}
	defer done()
	go func() {
		for {
			c, err := control.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(5 * time.Second))
			_ = json.NewEncoder(c).Encode(server.Status())
			c.Close()
		}
	}()
	complain(s, "serving the network of enclaves on %s", listen)
	return server.ServeAll(ctx, l, func(err error) { complain(s, "%v", err) })
}

func openNetListener(text string) (network.Listener, error) {
	kind, rest, _ := strings.Cut(text, ":")
	if kind == "vsock" {
		port, err := strconv.ParseUint(rest, 10, 32)
		if err != nil {
			return nil, usagef("invalid --listen %q: expected vsock:PORT or unix:PATH", text)
		}
		return network.ListenVSOCK(uint32(port))
	}
	e, err := machine.ParseEndpoint(text)
	if err != nil || kind != "unix" {
		return nil, usagef("invalid --listen %q: expected vsock:PORT or unix:PATH", text)
	}
	l, err := e.Listen()
	return network.Stream{Listener: l}, err
}

// statusSocket returns the path of the socket for neb net status.
func statusSocket(given string) (string, error) {
	const name = "neb-net.sock"
	switch dir := os.Getenv("XDG_RUNTIME_DIR"); {
	case given != "":
		return given, nil
	case os.Getuid() == 0:
		return "/run/" + name, nil
	case dir != "":
		return filepath.Join(dir, name), nil
	}
	return "", usagef("--socket is required: XDG_RUNTIME_DIR is not set")
}

func newNetStatusCommand(s streams) *cobra.Command {
	var socket string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the enclaves and connections of 'neb net serve'",
		Long: "Print the enclaves that are connected, their connections and bytes, and what their rules " +
			"refused.",
		Example: "  neb net status --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			path, err := statusSocket(socket)
			if err != nil {
				return err
			}
			c, err := net.Dial("unix", path)
			if err != nil {
				return fmt.Errorf("'neb net serve' does not answer: %w", err)
			}
			defer c.Close()
			var status network.Status
			if err := json.NewDecoder(io.LimitReader(c, 1<<20)).Decode(&status); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if asJSON {
				return printJSON(s, status)
			}
			return printNetStatus(s.out, status)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "",
		"`path` of the server's socket (default: neb-net.sock in /run, or in XDG_RUNTIME_DIR)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printNetStatus(out io.Writer, status network.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CID\tSINCE\tRECEIVED\tSENT\tTCP\tUDP\tREFUSED")
	for _, e := range status.Enclaves {
		var refused []string
		for reason, n := range e.Refused {
			refused = append(refused, fmt.Sprintf("%s %d", reason, n))
		}
		slices.Sort(refused)
		printRow(w, e.CID, e.Since.Format(time.RFC3339), e.Received, e.Sent,
			fmt.Sprintf("%d of %d", e.TCP.Open, e.TCP.Total), fmt.Sprintf("%d of %d", e.UDP.Open,
				e.UDP.Total),
			strings.Join(refused, ", "))
	}
	for _, p := range status.Published {
		printRow(w, "published", p)
	}
	return w.Flush()
}

// addNet serves the enclave's network, if --net asks for it.
func (o *runOptions) addNet(_ streams, parent *services) error {
	if !o.net {
		if o.netGiven != "" {
			return usagef("--%s needs --net", o.netGiven)
		}
		return nil
	}
	server, done, err := o.netFlags.server("127.0.0.1", !o.remote, func(e network.Event) {
		parent.timeline.Network(string(e.Kind), e.Reason, e.Count, e.Text)
	})
	if err != nil {
		var usage *ExitError
		if errors.As(err, &usage) {
			return err
		}
		return &ExitError{Code: exitMachine, Err: err}
	}
	parent.closers = append(parent.closers, done)
	return parent.serve(contract.NetworkPort, "--net", func(ctx context.Context, c *vsock.Conn) {
		if c.Accept() == nil {
			_ = server.Serve(ctx, o.cid, c) // the enclave tries again, and its console says so
		}
	})
}
