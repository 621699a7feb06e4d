// Loading what a view shows: once, again on demand, or every few seconds while it can be seen.
import { useCallback, useEffect, useRef, useState } from "./vendor/preact-htm.js";

/**
 * @template T
 * @typedef {object} Loaded
 * @property {T | null} data the last answer, kept while a newer one fails
 * @property {Error | null} error why the last attempt failed
 * @property {boolean} busy whether a request is on its way
 * @property {() => void} reload
 */

/**
 * @template T
 * @param {(signal: AbortSignal) => Promise<T>} load
 * @param {any[]} inputs loads afresh when one of them changes
 * @param {{everyMs?: number | ((data: T) => number | null) | null}} [options] wait between loads; none: once
 * @returns {Loaded<T>}
 */
export function useLoad(load, inputs, { everyMs = null } = {}) {
  const [state, setState] = useState({ data: null, error: null, busy: true });
  const [round, setRound] = useState(0);
  const loaded = useRef(inputs);
  const reload = useCallback(() => setRound((value) => value + 1), []);

  useEffect(() => {
    const ended = new AbortController();
    let timer = 0;
    const isSame = loaded.current.every((value, index) => value === inputs[index]);
    loaded.current = inputs;
    // What belongs to another id is not shown, even for a moment.
    setState((before) => ({ data: isSame ? before.data : null, error: isSame ? before.error : null, busy: true }));

    async function attempt() {
      let data = null;
      try {
        data = await load(ended.signal);
        if (!ended.signal.aborted) setState({ data, error: null, busy: false });
      } catch (error) {
        if (!ended.signal.aborted) setState((before) => ({ ...before, error, busy: false }));
      }
      const waitMs = typeof everyMs === "function" ? everyMs(data) : everyMs;
      if (waitMs && !ended.signal.aborted) timer = setTimeout(next, waitMs);
    }
    // A hidden page asks nothing.
    const next = () => (document.hidden ? (timer = setTimeout(next, 1000)) : attempt());

    // What another key was shown is not for this one.
    const forget = () => {
      ended.abort();
      setState({ data: null, error: null, busy: true });
      reload();
    };

    attempt();
    addEventListener("keychange", forget);
    return () => {
      ended.abort();
      clearTimeout(timer);
      removeEventListener("keychange", forget);
    };
  }, [...inputs, round]);

  return { ...state, reload };
}

/**
 * An action that a button starts. `run` never throws: its error is in the state.
 * @param {(...args: any[]) => Promise<any>} action
 */
export function useAction(action) {
  const [state, setState] = useState({ busy: false, error: null });
  const run = async (...args) => {
    setState({ busy: true, error: null });
    try {
      const result = await action(...args);
      setState({ busy: false, error: null });
      return result;
    } catch (error) {
      setState({ busy: false, error });
      return undefined;
    }
  };
  return { ...state, run };
}
