"""One scenario on the cluster, and its trace."""
import json, os, re, shutil, threading, time
import k8s, scenario

TERMINAL = ('Succeeded', 'Failed')


def state(c):
    """A container status in short: running | waiting:REASON | terminated:CODE:REASON"""
    def one(s):
        for k, v in (s or {}).items():
            if k == 'running':
                return 'running'
            if k == 'waiting':
                return 'waiting:' + v.get('reason', '')
            return 'terminated:%s:%s' % (v.get('exitCode'), v.get('reason', '')) + \
                (':sig%d' % v['signal'] if v.get('signal') else '')
        return ''
    out = {'state': one(c.get('state')), 'restartCount': c['restartCount'], 'ready': c['ready'],
           'started': c.get('started'), 'image': c['image']}
    if c.get('lastState'):
        out['last'] = one(c['lastState'])
    w = (c.get('state') or {}).get('waiting') or {}
    if w.get('message'):
        out['message'] = re.sub(r'_oracle\(.*', '', w['message'])
    t = (c.get('state') or {}).get('terminated') or {}
    if t.get('message'):
        out['message'] = t['message']
    return out


class World:
    """What all runs share."""
    def __init__(self, gates, engine_runs):
        self.api, self.kubelet = k8s.Api(), k8s.Kubelet()
        k8s.setup(self.api)
        self.tasks = k8s.Tasks()
        self.runs, self.gates = {}, gates
        self.memory = int(self.api.call('GET', '/api/v1/nodes/testground')[1]['status']['capacity']['memory'][:-2]) * 1024
        self.lock = threading.Lock()
        self.downs = []
        self.barrier = threading.Barrier(engine_runs, action=self.restart) if engine_runs else None
        ns = '/namespaces/' + k8s.NS
        self.api.watch('/api/v1' + ns + '/pods', lambda t, o: self.to('pod', o['metadata'].get('labels', {}).get('oracle'), t, o))
        self.api.watch('/api/v1' + ns + '/events', lambda t, o: self.to('event', o['involvedObject'].get('name'), t, o))
        self.api.watch('/apis/batch/v1' + ns + '/jobs', lambda t, o: self.to('job', o['metadata']['name'], t, o))
        time.sleep(0.5)

    def to(self, kind, name, typ, obj):
        r = self.runs.get(name)
        if not r and kind == 'event':
            r = next((r for n, r in self.runs.items() if name and name.startswith(n + '-') and r.job), None)
        if r and typ != 'LIST' and not r.closed:
            getattr(r, 'on_' + kind)(typ, obj)

    def restart(self):
        """The one restart of the kubelet, once all runs that want it are ready."""
        with self.lock:
            down = k8s.boot()
            self.kubelet.stop()
            for f in self.downs:
                f()
            time.sleep(2)
            self.kubelet.start()
            up = k8s.boot()
        for r in self.runs.values():
            r.note_at(down, 'engine-stop', '')
            r.note_at(up, 'engine-start', '')


class Run:
    def __init__(self, world, s, rid, policy, extra, out):
        self.w, self.s, self.id, self.policy, self.extra = world, s, rid, policy, extra
        self.name = rid.lower()
        self.dir = k8s.STATE + '/oracle/' + self.name
        self.out, self.events, self.final, self.closed = out, [], {}, False
        self.prev, self.uids, self.gone, self.jobstat = {}, [], None, {}
        self.t0 = None

    # --- Recording -------------------------------------------------------------------

    def note_at(self, t, kind, *rest):
        if not self.closed:
            self.events.append((t, kind) + rest)

    def note(self, kind, *rest):
        self.note_at(k8s.boot(), kind, *rest)

    def on_pod(self, typ, o):
        now = k8s.boot()
        if typ == 'DELETED':
            self.note_at(now, 'api', 'deleted')
        st, cur = o.get('status', {}), {}
        pod = o['metadata']['name']
        if pod != self.name:
            cur['pod'] = 'pod'
        cur['phase'] = st.get('phase')
        for k in 'reason', 'message':
            if st.get(k):
                cur[k] = st[k]
        if st.get('podIP'):
            cur['podIP'] = st['podIP']
        if o['metadata'].get('deletionTimestamp'):
            cur['deleting'] = o['metadata'].get('deletionGracePeriodSeconds')
        for c in st.get('conditions', []):
            cur['condition ' + c['type']] = ': '.join(filter(None, (c['status'], c.get('reason'), c.get('message'))))
        for c in st.get('initContainerStatuses', []) + st.get('containerStatuses', []):
            cur['container ' + c['name']] = state(c)
            if c.get('containerID'):
                self.ids[c['containerID'].split('//')[1]] = c['name']
        prev = self.prev.get(pod, {})
        for k in cur:
            if cur[k] != prev.get(k) and k != 'pod':
                self.note_at(now, 'api', k, cur[k])
        for k in prev:
            if k not in cur:
                self.note_at(now, 'api', k, None)
        self.prev[pod] = cur
        self.final = {k: v for k, v in cur.items() if k not in ('pod', 'podIP')}
        if typ == 'DELETED':
            self.gone = now

    def on_event(self, typ, o):
        m = re.sub(r'_oracle\([^)]*\)', '', o.get('message', ''))
        self.note('event', o['type'], o['reason'], m, o.get('count', 1))

    def on_job(self, typ, o):
        cur = {k: v for k, v in o.get('status', {}).items() if k in ('active', 'succeeded', 'failed', 'ready')}
        for c in o.get('status', {}).get('conditions', []):
            cur['condition ' + c['type']] = ': '.join(filter(None, (c['status'], c.get('reason'), c.get('message'))))
        for k in cur:
            if cur[k] != self.jobstat.get(k):
                self.note('job', k, cur[k])
        self.jobstat = cur

    # --- What stimuli are made of --------------------------------------------------------

    def lines(self):
        try:
            return [l.split() for l in open(self.dir + '/log') if l.endswith('\n')]
        except OSError:
            return []

    def has(self, name, what):
        return any(l[1] == name and l[3] == what for l in self.lines())

    def runs(self, name):
        return [l for l in self.lines() if l[1] == name and l[3] == 'start']

    def wait(self, cond, limit):
        end = time.time() + limit
        while not cond():
            if time.time() > end or self.gone or self.final.get('phase') in TERMINAL:
                self.note('harness', 'gave up waiting before the stimulus')
                return
            time.sleep(0.1)

    def sleep(self, s):
        time.sleep(s)

    def path(self, name=''):
        return '/api/v1/namespaces/%s/pods/%s' % (k8s.NS, name or self.name)

    def delete(self, grace):
        self.note('do', 'delete', grace)
        self.w.api.call('DELETE', self.path(), {} if grace is None else {'gracePeriodSeconds': grace})

    def set_image(self, section, name, image):
        st, o = self.w.api.call('PATCH', self.path(), {'spec': {section: [{'name': name, 'image': image}]}},
                                'application/strategic-merge-patch+json')
        self.note('do', 'set-image', name, image[-1], st if st == 200 else o.get('message'))

    def kill(self, name):
        cid = self.runs(name)[-1][4]
        self.note('do', 'kill -9', name)
        os.kill(self.w.tasks.tasks[cid][0], 9)

    def kill_pause(self):
        box = [l.split()[1] for l in self.cri('ps').splitlines() if l.startswith('sandbox') and 'READY' in l and 'NOT' not in l][0]
        pid = next(l.split()[1] for l in k8s.ctr('tasks', 'ls').stdout.splitlines() if l.startswith(box))
        self.note('do', 'kill -9', 'pause')
        os.kill(int(pid), 9)

    def cri(self, *args):
        return k8s.cri(self.name, *args)

    def engine_restart(self, down):
        with self.w.lock:
            self.w.downs += down
        self.w.barrier.wait()

    # --- The run -------------------------------------------------------------------------

    def main(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        os.chmod(self.dir, 0o777)
        self.ids = {}
        s, api = self.s, self.w.api
        self.man = man = scenario.manifest(s, self.id, self.policy, self.dir, self.w.memory)
        self.job = man['kind'] == 'Job'
        os.makedirs(self.out + '/manifests', exist_ok=True)
        open('%s/manifests/%s.yaml' % (self.out, self.id), 'w').write(yaml(man))
        self.w.runs[self.name] = self
        self.t0 = k8s.boot()
        base = '/apis/batch/v1/namespaces/%s/jobs' % k8s.NS if self.job else self.path()[:-len(self.name) - 1]
        self.created, o = api.call('POST', base + '?fieldValidation=Strict', man)
        self.note('do', 'create', self.created if self.created == 201 else o.get('message'))
        if self.created == 201:
            scenario.stimulus(s, self, self.extra)
            watch = s.get('watch') or scenario.WATCH.get(s['id'], scenario.LONGEST)
            end = time.time() + watch
            while time.time() < end and not self.gone:
                if any(k.startswith(('condition Complete', 'condition Failed')) for k in self.jobstat):
                    break
                if not self.job and self.final.get('phase') in TERMINAL and not self.deleting() \
                        and not s.get('stimulus', '').startswith('delete'):
                    break
                time.sleep(0.2)
            time.sleep(1)
        # The last status before the object went is what counts; what follows is cleaning up.
        self.end = k8s.boot()
        self.closed = True
        trace = self.trace()
        bg = {'gracePeriodSeconds': 1, 'propagationPolicy': 'Background'}
        if self.job:
            api.call('DELETE', base + '/' + self.name, bg)
        for p in list(self.prev):
            api.call('DELETE', self.path(p), bg)
        return trace

    def deleting(self):
        return 'deleting' in self.final

    def trace(self):
        rel = lambda t: round((t - self.t0) * 1000)
        ev, cids, count = [], {}, {}
        ticks = {}
        for l in self.lines():
            t, name, inst = float(l[0]), l[1], l[2]
            if t > self.end:
                break
            if l[3] == 'start':
                count[name] = count.get(name, -1) + 1
                cids[l[4]] = '%s#%d' % (name, count[name])
                ev.append((t, 'start', cids[l[4]], l[5], l[6]))
                continue
            who = next((v for k, v in cids.items() if k.startswith(inst)), name + '#?')
            if l[3] == 'hook' and l[5] == 'tick':
                ticks[who, l[4]] = t
            else:
                ev.append((t, l[3], who) + tuple(l[4:]))
        for (who, kind), t in ticks.items():
            ev.append((t, 'hook', who, kind, 'last-seen'))
        for cid, name in list(self.ids.items()):
            if cid not in cids and cid in self.w.tasks.tasks:      # ran, but wrote nothing
                cids[cid] = name + '#silent'
        for cid, who in cids.items():
            t = self.w.tasks.tasks.get(cid)
            if t and t[1]:
                ev.append((t[1], 'created', who))
            if t and t[2] and t[2] <= self.end:
                ev.append((t[2], 'exited', who, t[3]) + (('oom',) if cid in self.w.tasks.oom else ()))
        ev += self.events
        ev.sort(key=lambda e: e[0])
        return {'id': self.id, 'scenario': self.s['id'], 'policy': self.policy, 'variant': self.extra,
                'kubernetes': 'v1.34.2', 'gates': self.w.gates, 'stimulus': self.s.get('stimulus'),
                'grace': self.s.get('terminationGracePeriodSeconds'),
                'events': [[rel(e[0])] + list(e[1:]) for e in ev], 'final': self.final,
                'end': rel(self.end), 'gone': rel(self.gone) if self.gone else None}


def yaml(o, ind=0):
    """Block style for the outer levels, JSON for scalars: enough for manifests."""
    pad = '  ' * ind
    if isinstance(o, dict) and o:
        out = ''
        for k, v in o.items():
            if isinstance(v, (dict, list)) and v and ind < 6 and k != 'env':
                out += '%s%s:\n%s' % (pad, k, yaml(v, ind + 1))
            else:
                out += '%s%s: %s\n' % (pad, k, json.dumps(v))
        return out
    if isinstance(o, list) and o:
        out = ''
        for v in o:
            t = yaml(v, ind + 1) if isinstance(v, dict) else json.dumps(v) + '\n'
            out += pad + '- ' + t.lstrip()
        return out
    return pad + json.dumps(o) + '\n'
