package rack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// kubectl runs kubectl in the namespace with the rack's admin kubeconfig and returns what it prints.
func (r *rack) kubectl(ctx context.Context, in io.Reader, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.stretched(90*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, r.kubectlPath(), append([]string{"--kubeconfig", r.kubeconfig(), "--request-timeout=" + r.stretched(time.Minute).String()}, args...)...)
	cmd.Dir, cmd.Env = r.dir, []string{"HOME=" + r.dir, "PATH=/usr/bin:/bin"}
	cmd.WaitDelay = 5 * time.Second
	var out, words bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &words
	err := r.space.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", args[0], err, lastLine(words.String()))
	}
	return out.String(), nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// pods are the pods of the checks by name.
type pods map[string]pod

// pod is what the checks must know of a pod (core/v1 Pod).
type pod struct {
	Metadata struct{ Name string } `json:"metadata"`
	Status   struct {
		Phase             string
		Message           string
		ContainerStatuses []struct {
			Name         string
			Ready        bool
			RestartCount int
			State        struct {
				Waiting    *struct{ Reason, Message string }
				Terminated *struct {
					Reason, Message string
					ExitCode        int
				}
			}
		}
	} `json:"status"`
}

func (r *rack) pods(ctx context.Context) (pods, error) {
	text, err := r.kubectl(ctx, nil, "get", "pods", "-n", checkSpace, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []pod }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("cannot read the list of pods: %w", err)
	}
	all := pods{}
	for _, p := range list.Items {
		all[p.Metadata.Name] = p
	}
	return all, nil
}

// state is a pod's state in words.
func (p pod) state() string {
	words := []string{"pod " + p.Metadata.Name + " is " + strings.ToLower(p.Status.Phase)}
	if p.Status.Message != "" {
		words = append(words, p.Status.Message)
	}
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil:
			words = append(words, fmt.Sprintf("container %s waits: %s %s", c.Name, c.State.Waiting.Reason, c.State.Waiting.Message))
		case c.State.Terminated != nil:
			words = append(words, fmt.Sprintf("container %s ended with %d: %s %s", c.Name, c.State.Terminated.ExitCode, c.State.Terminated.Reason, c.State.Terminated.Message))
		case !c.Ready:
			words = append(words, "container "+c.Name+" is not ready")
		}
	}
	return strings.TrimSpace(strings.Join(words, "; "))
}

// succeeded wants a pod's containers to have ended well.
func succeeded(name string) func(context.Context, pods) error {
	return func(_ context.Context, all pods) error {
		if p := all[name]; p.Status.Phase != "Succeeded" {
			return errors.New(p.state())
		}
		return nil
	}
}

// running wants all of a pod's containers ready.
func running(name string) func(context.Context, pods) error {
	return func(_ context.Context, all pods) error {
		p := all[name]
		if p.Status.Phase != "Running" || len(p.Status.ContainerStatuses) == 0 {
			return errors.New(p.state())
		}
		for _, c := range p.Status.ContainerStatuses {
			if !c.Ready {
				return errors.New(p.state())
			}
		}
		return nil
	}
}

// restarted wants a container of the pod to have been restarted.
func restarted(name string) func(context.Context, pods) error {
	return func(_ context.Context, all pods) error {
		p := all[name]
		for _, c := range p.Status.ContainerStatuses {
			if c.RestartCount >= 1 {
				return nil
			}
		}
		return fmt.Errorf("%s; no container was restarted", p.state())
	}
}

// inPod wants a command in a container to print a text.
func (r *rack) inPod(name, container, want string, command ...string) func(context.Context, pods) error {
	return func(ctx context.Context, all pods) error {
		if err := running(name)(ctx, all); err != nil {
			return err
		}
		out, err := r.kubectl(ctx, nil, append([]string{"exec", "-n", checkSpace, name, "-c", container, "--"}, command...)...)
		if err != nil {
			return err
		}
		if !strings.Contains(out, want) {
			return fmt.Errorf("%s prints %q, without %q", strings.Join(command, " "), out, want)
		}
		return nil
	}
}

// nodePort fetches from the Service's port on the node that the pod does not run on.
func (r *rack) nodePort(ctx context.Context, all pods) error {
	if err := running("web")(ctx, all); err != nil {
		return err
	}
	out, err := r.kubectl(ctx, nil, "get", "service", "web", "-n", checkSpace, "-o", "jsonpath={.spec.ports[0].nodePort}")
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return fmt.Errorf("the Service has no node port: %q", out)
	}
	address := r.Cluster.NodeAddress(r.other())
	body, err := r.client.fetch(ctx, "http://"+net.JoinHostPort(address.String(), strconv.Itoa(port))+"/")
	if err != nil {
		return err
	}
	if !strings.Contains(string(body), "hello from two containers") {
		return fmt.Errorf("port %d of %s answers %q", port, r.other().Name, body)
	}
	return nil
}
