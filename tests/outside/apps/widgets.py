"""A page of Streamlit with a widget of each kind that the test uses. Leaves: what the widgets are set to."""

import time

import streamlit as st

st.title("Widgets")
st.caption(f"session {st.runtime.scriptrunner.get_script_run_ctx().session_id}")

number = st.slider("A number", 0, 100, 10)
st.write(f"Its square is {number * number}.")

name = st.text_input("A name")
if name:
    st.write(f"{name} backwards is {name[::-1]}.")

if "count" not in st.session_state:
    st.session_state.count = 0
if st.button("Once more"):
    st.session_state.count += 1
st.write(f"Pressed {st.session_state.count} times.")


def words():
    """Words that come one by one."""
    for n in range(40):
        yield f"w{n * n} "
        time.sleep(0.1)


if st.button("Talk"):
    st.write_stream(words())
    st.write("That was all.")

picture = st.file_uploader("A file")
if picture:
    st.write(f"{len(picture.getvalue())} bytes.")
